from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest

from relaykit_gateway.acp_client import AcpError, Question, SessionEnded, SessionOpened, TurnEnded, Update
from relaykit_gateway.chat.outputs import JsonOutput, Output, TextOutput
from relaykit_gateway.chat.transcript import Transcript
from relaykit_gateway.terminal.screen import Screen


class Terminal(StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def chunk(text: str, kind: str = "agent_message_chunk") -> dict[str, Any]:
    return {"sessionUpdate": kind, "content": {"type": "text", "text": text}}


def call(number: int, **fields: Any) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call", "toolCallId": f"call-{number}", **fields}


def ends(number: int, status: str, **fields: Any) -> dict[str, Any]:
    return {"sessionUpdate": "tool_call_update", "toolCallId": f"call-{number}", "status": status, **fields}


def shown(*updates: dict[str, Any], colours: bool = False) -> str:
    stream = StringIO()
    transcript = Transcript(Screen(stream, colours=colours), prompts=False)
    for update in updates:
        transcript.update(update)
    transcript.end_line()
    return stream.getvalue()


def test_everything_but_the_agents_words_has_lines_of_its_own() -> None:
    stream = StringIO()
    transcript = Transcript(Screen(stream, colours=False), prompts=False)
    for update in (
        chunk("hm", "agent_thought_chunk"),
        call(1, title="Read\x1b a\nfile"),
        ends(1, "failed"),
        {"sessionUpdate": "agent_message_chunk", "content": {"type": "image", "data": ""}},
        chunk(" is it\n"),
        {"sessionUpdate": "something_new"},
        {"sessionUpdate": "agent_message_chunk", "content": None},
        chunk("and **I**", "user_message_chunk"),
        {"sessionUpdate": "current_mode_update", "currentModeId": "plan"},
    ):
        transcript.update(update)
    transcript.turn_end("refusal")
    cleanup = [
        {"cleaner": "acp", "outcome": "DONE"},
        {"cleaner": "w", "outcome": "KEPT", "detail": "kept it"},
    ]
    transcript.ended(SessionEnded(session_id="s", cause="REQUESTED", reason="enough", cleanup=cleanup))
    assert stream.getvalue().splitlines() == [
        *("hm", "* Read a file: failed", "[image] is it", "> and **I**", "(mode: plan)", "(refusal)"),
        *("the session has ended: enough", "w: kept it"),
    ]


def test_a_tool_call_ends_on_its_own_line_if_it_can() -> None:
    said = shown(
        call(1, title="Read a", kind="read", status="pending"),
        ends(1, "in_progress"),
        ends(1, "completed"),
        ends(1, "completed"),
        call(2, title="Run b", kind="execute"),
        call(3, title="Run c"),
        ends(2, "failed"),
        ends(3, "completed", title="Ran c"),
        ends(4, "completed"),
        call(5, title="Shell", kind="execute"),
        {"sessionUpdate": "tool_call_update", "toolCallId": "call-5", "title": "ls -l"},
        ends(5, "completed", title="ls -l"),
        call(6, title="Left open"),
    )
    assert said.splitlines() == [
        *("* Read a (read): done", "* Run b (execute)", "* Run c", "* Run b: failed", "* Ran c: done"),
        *("* call-4: done", "* Shell (execute): ls -l: done", "* Left open"),
    ]


def test_what_a_question_says_of_a_tool_call_is_known_at_its_end() -> None:
    stream = StringIO()
    transcript = Transcript(Screen(stream, colours=False), prompts=False)
    transcript.update(call(1, title="Shell", kind="execute"))
    assert transcript.title_of({"toolCallId": "call-1", "title": "ls -l"}) == "ls -l"
    transcript.note("? ls -l")
    assert transcript.title_of({"toolCallId": "call-1"}) == "ls -l"
    assert transcript.title_of({"toolCallId": "call-2"}) == ""
    transcript.update(ends(1, "completed"))
    assert stream.getvalue().splitlines() == ["* Shell (execute)", "? ls -l", "* ls -l: done"]


def test_of_a_plan_what_has_changed_is_shown() -> None:
    def plan(*entries: tuple[str, str]) -> dict[str, Any]:
        listed = [{"content": content, "status": status} for content, status in entries]
        return {"sessionUpdate": "plan", "entries": [*listed, None]}

    said = shown(
        plan(("think", "in_progress"), ("act", "pending")),
        plan(("think", "completed"), ("act", "in_progress"), ("rest", "some day")),
        plan(("think", "completed"), ("act", "in_progress"), ("rest", "some day")),
    )
    assert said.splitlines() == ["[~] think", "[ ] act", "[x] think", "[~] act", "[some day] rest"]


def test_markdown_is_rendered_where_there_are_colours() -> None:
    said = shown(chunk("a **b"), chunk("** `c"), call(1, title="**t**"), chunk("`"), colours=True)
    assert said == "a \x1b[1mb\x1b[0m `c\n\x1b[36m* **t**\x1b[0m\n`\n"
    assert shown(chunk("a **b"), chunk("** c")) == "a **b** c\n"


def opened() -> SessionOpened:
    return SessionOpened(
        session_id="s1",
        result={},
        role="r",
        agent="echo",
        project="p",
        cwd="/w",
        epoch="e",
        seq=1,
        turn_running=None,
    )


def turn_ended(stop_reason: str = "end_turn", error: AcpError | None = None) -> TurnEnded:
    return TurnEnded(session_id="s1", seq=9, turn="t", stop_reason=stop_reason, error=error)


def tell(output: Output) -> None:
    output.opened(opened())
    for number, update in enumerate(
        (chunk("One \x1b[31m"), chunk("two."), call(1, title="Look"), ends(1, "failed")), 2
    ):
        output.update(Update(session_id="s1", seq=number, update=update))
    output.update(Update(session_id="s1", seq=6, update=chunk("Three.")))
    output.turn_ended(turn_ended())
    output.done(0)


def test_the_answer_is_apart_from_the_progress() -> None:
    answer, progress = StringIO(), StringIO()
    tell(TextOutput(answer, Transcript(Screen(progress, colours=False), prompts=False)))
    assert answer.getvalue() == "One [31mtwo.\nThree.\n"
    assert progress.getvalue().splitlines() == ["session s1: echo as r, in /w", "* Look: failed"]


def test_on_a_terminal_both_have_their_own_lines() -> None:
    both = Terminal()
    tell(TextOutput(both, Transcript(Screen(both, colours=False), prompts=False)))
    assert both.getvalue().splitlines() == [
        *("session s1: echo as r, in /w", "One [31mtwo.", "* Look: failed", "Three."),
    ]


def test_an_error_is_progress() -> None:
    answer, progress = StringIO(), StringIO()
    output = TextOutput(answer, Transcript(Screen(progress, colours=False), prompts=False))
    output.update(Update(session_id="s1", seq=1, update=chunk("half")))
    output.turn_ended(turn_ended("", AcpError(-32603, "told to fail")))
    output.done(1)
    assert (answer.getvalue(), progress.getvalue()) == ("half\n", "relaykit: told to fail\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "? Say it\n"),
        ({"outcome": {"outcome": "cancelled"}}, "? Say it: cancelled\n"),
        ({"outcome": {"outcome": "selected", "optionId": "yes"}}, "? Say it: Allow\n"),
        ({"action": "decline"}, "? Say it: decline\n"),
    ],
)
def test_a_question_is_progress(answer: dict[str, Any] | None, said: str) -> None:
    progress = StringIO()
    output = TextOutput(StringIO(), Transcript(Screen(progress, colours=False), prompts=False))
    params = {"toolCall": {"title": "Say it"}, "options": [{"optionId": "yes", "name": "Allow"}]}
    question = Question(session_id="s1", seq=1, id="q", method="session/request_permission", params=params)
    output.question(question, answer)
    assert progress.getvalue() == said


def test_json_has_an_object_for_each_event_and_changes_no_terminal() -> None:
    stream, progress = StringIO(), StringIO()
    output = JsonOutput(stream, Transcript(Screen(progress, colours=False), prompts=False))
    output.opened(opened())
    odd = {**chunk("\x9b2J é"), "_meta": {"x": [1.5, None]}}
    output.update(Update(session_id="s1", seq=2, update=odd))
    question = Question(session_id="s1", seq=3, id="q", method="m", params={"a": 1})
    output.question(question, None)
    output.turn_ended(turn_ended("", AcpError(-32000, "log in", {"how": "so"})))
    output.failed(AcpError(-1, "gone"))
    output.note("for people")
    cleanup = [{"cleaner": "w", "outcome": "KEPT", "detail": "kept it"}]
    output.session_ended(SessionEnded(session_id="s1", cause="REQUESTED", reason="enough", cleanup=cleanup))
    output.done(4)
    assert stream.getvalue().isascii()
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "session", "sessionId": "s1", "role": "r", "agent": "echo", "project": "p", "cwd": "/w"},
        {"event": "update", "seq": 2, "update": odd},
        {"event": "question", "seq": 3, "id": "q", "method": "m", "params": {"a": 1}, "answer": None},
        {
            "event": "turn",
            "stopReason": None,
            "error": {"code": -32000, "message": "log in", "data": {"how": "so"}},
        },
        {"event": "error", "code": -1, "message": "gone", "data": None},
        {"event": "end", "exitCode": 4, "sessionEnded": True, "cleanup": cleanup},
    ]
    assert progress.getvalue().splitlines() == ["for people", "the session has ended: enough", "w: kept it"]
