"""The README names everything that a client or an operator may meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaykit_gateway import render
from relaykit_gateway.codes import Code
from relaykit_gateway.messages import BUILT_IN

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.parametrize("name", [*Code, *BUILT_IN])
def test_it_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("file", ["render.py", "follower.py", "connection.py", "messages.py"])
def test_every_message_that_is_sent_is_in_the_readme(file: str) -> None:
    text = (Path(render.__file__).parent / file).read_text()
    words = {
        word for word in text.split('"') if ":" in word and word.replace(":", "").replace("_", "").isalpha()
    }
    assert words
    assert not {word for word in words if f"`{word}`" not in README}
