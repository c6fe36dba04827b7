"""What is asked, and what of the answers a script may type; keys are pressed in the tests of the command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import StringIO
from typing import Any

import anyio
import pytest

from relaykit_gateway.acp_client import Question
from relaykit_gateway.chat.asking import Asker
from relaykit_gateway.chat.transcript import Transcript
from relaykit_gateway.terminal.lines import Lines
from relaykit_gateway.terminal.screen import Screen

pytestmark = pytest.mark.anyio

SECONDS = 20

YES = {"optionId": "yes", "name": "Allow", "kind": "allow_once"}
NO = {"optionId": "no", "name": "Reject", "kind": "reject_once"}


class Script:
    """An asker, what it is answered, and what it has shown."""

    def __init__(self, reading: int, writing: int) -> None:
        self._stream = StringIO()
        self._writing = writing
        self.transcript = Transcript(Screen(self._stream, colours=False), prompts=False)
        self.asker = Asker.on(Lines(reading), self.transcript)

    async def ask(self, method: str, typed: str, **params: Any) -> tuple[Any, list[str]]:
        """Return the answer to a question, and the lines that were shown, but for those that were typed."""
        os.write(self._writing, typed.encode())
        before = len(self._stream.getvalue())
        question = Question(session_id="s", seq=1, id="q", method=method, params=params)
        assert self.asker.can_ask(question)
        with anyio.fail_after(SECONDS):
            answer = await self.asker.ask(question)
        shown = self._stream.getvalue()[before:].splitlines()
        return answer, [line for line in shown if not line.startswith(">")]


@pytest.fixture
def script() -> Iterator[Script]:
    reading, writing = os.pipe()
    yield Script(reading, writing)
    os.close(reading)
    os.close(writing)


async def test_a_permission_shows_all_of_what_is_permitted(script: Script) -> None:
    title = "rm -rf \x1b[2K\u202e" + "x" * 500
    call = {
        "toolCallId": "c",
        "title": title,
        "kind": "delete",
        "content": [{"type": "diff", "path": "a\nb"}, None],
    }
    answer, shown = await script.ask(
        "session/request_permission", "maybe\nallow\n", toolCall=call, options=[YES, NO]
    )
    assert answer == {"outcome": {"outcome": "selected", "optionId": "yes"}}
    assert shown == [
        f"? rm -rf [2K{'x' * 500} (delete)",
        *("  changes a b", "  1  Allow [y]", "  2  Reject [n]", "'maybe' is none of the answers"),
    ]


async def test_a_title_that_was_said_before_is_not_said_again_by_agents(script: Script) -> None:
    script.transcript.update({"sessionUpdate": "tool_call", "toolCallId": "c", "title": "Write a"})
    _, shown = await script.ask(
        "session/request_permission", "n\n", toolCall={"toolCallId": "c"}, options=[NO]
    )
    assert shown[-2:] == ["? Write a", "  1  Reject [n]"]
    _, shown = await script.ask("session/request_permission", "n\n", toolCall=None, options=[NO])
    assert shown[0] == "? the agent asks for a permission"


async def test_a_form_is_asked_for_field_by_field_until_each_is_right(script: Script) -> None:
    properties = {
        "name": {"type": "string", "title": "Name", "description": "of you"},
        "age": {"type": "integer", "minimum": 0},
        "colour": {"type": "string", "enum": ["red", "green"], "default": "red"},
        "sure": {"type": "boolean"},
        "note": {"type": "string"},
    }
    schema = {"type": "object", "properties": properties, "required": ["name", "age", "sure"]}
    answer, shown = await script.ask(
        "elicitation/create",
        "\nAda\nold\n36\n\nperhaps\ny\n\n",
        message="Who\nare you?",
        requestedSchema=schema,
    )
    content = {"name": "Ada", "age": 36, "colour": "red", "sure": True}
    assert answer == {"action": "accept", "content": content}
    assert shown == [
        *("? Who are you?", "(/decline answers nothing)", "  Name: of you", "it must be given"),
        *("  age: a whole number", "'old' is no whole number"),
        *("  colour: default: red", "  1  red", "  2  green"),
        *("  sure: y or n", "y or n", "  note: may be empty"),
    ]


async def test_a_link_is_followed_or_not(script: Script) -> None:
    wanted = {"mode": "url", "message": "Log in", "url": "https://a/b", "elicitationId": "e"}
    answer, shown = await script.ask("elicitation/create", "y\n", **wanted)
    assert answer == {"action": "accept"}
    assert shown == ["? Log in", "  https://a/b", "  1  I go there [y]", "  2  No [n]"]
    answer, _ = await script.ask("elicitation/create", "n\n", **wanted)
    assert answer == {"action": "decline"}


async def test_a_script_that_has_ended_answers_nothing(script: Script) -> None:
    question = Question(
        session_id="s", seq=1, id="q", method="session/request_permission", params={"options": [YES]}
    )
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        asker = Asker.on(Lines(nothing), script.transcript)
        with anyio.fail_after(SECONDS), pytest.raises(anyio.EndOfStream):
            await asker.ask(question)
    finally:
        os.close(nothing)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session/request_permission", {"options": []}),
        ("session/request_permission", {}),
        ("elicitation/create", {"mode": "something_new"}),
        ("fs/read_text_file", {"path": "/etc/passwd"}),
    ],
)
async def test_what_cannot_be_asked_here(script: Script, method: str, params: dict[str, Any]) -> None:
    assert not script.asker.can_ask(Question(session_id="s", seq=1, id="q", method=method, params=params))
