from __future__ import annotations

from pathlib import Path

import pytest

from relaykit.errors import PluginLoadError
from relaykit.hooks import hookimpl
from relaykit.session import Transition
from support.plugin_sites import load


class Counting:
    def __init__(self) -> None:
        self.heard: list[Transition] = []

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        self.heard.append(transition)


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no counter")


def test_each_set_has_an_instance_of_its_own_of_a_plugin_that_is_a_class(tmp_path: Path) -> None:
    found = [
        load(tmp_path, counting=Counting).implementations("relaykit_on_transition")[0].function for _ in "ab"
    ]
    owners = [getattr(function, "__self__", None) for function in found]
    assert all(isinstance(owner, Counting) for owner in owners)
    assert owners[0] is not owners[1]


def test_a_class_that_cannot_be_made_is_a_plugin_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(PluginLoadError, match=r"'broken'.*no counter"):
        load(tmp_path, broken=Broken)
