"""Plugins for tests: real distributions on disk, and plugin sets made from settings written as text."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

from relaykit.hooks.loader import load_plugins
from relaykit.hooks.plugin_set import PluginSet
from relaykit.meter import Figure, Values
from relaykit.settings import Settings, load_settings

_numbers = itertools.count(1)


class Site:
    """A directory of installed distributions, on the import path for as long as the test runs."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root.mkdir()
        self.root = root
        monkeypatch.syspath_prepend(root)

    def install(
        self,
        entry_point: str,
        source: str = "",
        *,
        distribution: str | None = None,
        version: str = "1.2.3",
        announces: str = "",
        needs: str = "",
    ) -> str:
        """Install a distribution with one plugin whose module has this source; return the module's name.

        :param announces: its entry points in the group ``relaykit.commands``, with ``MODULE`` for a module that
            has the same source.
        :param needs: the version of the hooks, as ``v1``.
        """
        module = f"installed_{entry_point}_{next(_numbers)}".replace("-", "_")
        name = distribution or f"relaykit-{entry_point}"
        (self.root / f"{module}.py").write_text(dedent(source))
        info = self.root / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = [f"[relaykit]\n{entry_point} = {module}\n"]
        if needs:
            groups.append(f"[relaykit.api]\n{entry_point} = {needs}\n")
        if announces:
            (self.root / f"{module}_commands.py").write_text(dedent(source))
            groups.append(f"[relaykit.commands]\n{announces.replace('MODULE', f'{module}_commands')}\n")
        (info / "entry_points.txt").write_text("\n".join(groups))
        return module

    def entry_points(self, *, times: int = 1) -> Sequence[metadata.EntryPoint]:
        """Return what is installed here, read from the directory; `times` as if it were on the path more than once."""
        found = list(metadata.distributions(path=[str(self.root)] * times))
        return [
            entry_point
            for distribution in found
            for entry_point in distribution.entry_points
            if entry_point.group == "relaykit"
        ]


def imported(module: str) -> bool:
    """Tell whether a module was imported."""
    return module in sys.modules


def settings_from(directory: Path, toml: str = "", *, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of a ``relaykit.toml`` with this text, in this directory, which is also the home."""
    (directory / "relaykit.toml").write_text(dedent(toml))
    return load_settings(environ={"HOME": str(directory), **(environ or {})}, cwd=directory)


def load(
    directory: Path,
    toml: str = "",
    *,
    entry_points: Iterable[metadata.EntryPoint] = (),
    forgiving: bool = False,
    **extra: object,
) -> PluginSet:
    """Return the plugins of these entry points, and those given as objects by their names."""
    return load_plugins(
        settings_from(directory, toml), entry_points=entry_points, extra=extra, forgiving=forgiving
    )


class RecordingMeter:
    """Keeps what it is given: ``(figure's name, amount or value, labels)``."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, float, dict[str, str]]] = []
        self.observed: list[tuple[str, float, dict[str, str]]] = []
        self.expected: list[tuple[str, dict[str, str]]] = []
        self.watched: dict[str, Callable[[], Values]] = {}

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Keep the amount."""
        self.counted.append((figure.name, amount, labels))

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Keep the value."""
        self.observed.append((figure.name, value, labels))

    def expect(self, figure: Figure, /, **labels: str) -> None:
        """Keep the labels."""
        self.expected.append((figure.name, labels))

    def watch(self, figure: Figure, read: Callable[[], Values], /) -> None:
        """Keep who tells."""
        self.watched[figure.name] = read

    def failures(self, plugin: str) -> list[str]:
        """Return how the plugin's hooks failed, in order."""
        return [
            labels["failure"]
            for name, _, labels in self.counted
            if name == "hook_failures" and labels["plugin"] == plugin
        ]
