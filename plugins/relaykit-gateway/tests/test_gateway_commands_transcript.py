"""`relaykit transcript`, and `relaykit sessions` for what has ended; with a relay and without."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaykit_gateway.address import ClientError
from relaykit_gateway.chat.history import PlainTeller, last_turns, tell
from relaykit_gateway.chat.markdown_history import MarkdownTeller
from relaykit_gateway.chat.transcript import Transcript
from relaykit_gateway.http_client import RequestRefused
from relaykit_gateway.records import full_id
from relaykit_gateway.terminal.screen import Screen
from support.programs import Place, serving


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where a relay runs, with a storage that lasts."""
    here = Place(tmp_path_factory.mktemp("transcripts"))
    with serving(here):
        yield here
    assert here.processes() == []


def talked(place: Place, role: str, *lines: str) -> str:
    """Talk in a session and end it; return its id."""
    done = place.run("chat", "--role", role, typed="\n".join([*lines, "/stop", ""]))
    assert done.returncode == 0, done
    return done.stdout.split()[1].removesuffix(":")


def test_a_transcript_as_text_markdown_and_json(place: Place) -> None:
    session_id = talked(place, "text", "hello", "/ask", "no", "/fail", "**last**")
    shown = place.run("transcript", session_id)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [line for line in shown.stdout.splitlines() if not line.startswith("── ")]
    assert lines[:10] == [
        f"session {session_id}: echo as text, default",
        f"the agent works in {place.work}",
        "> hello",
        "hello",
        "> /ask",
        "? Say it",
        lines[6],
        "permission: no",
        "> /fail",
        lines[9],
    ]
    assert lines[6] == "  Reject (by the relay's own token)"
    assert lines[9].startswith("failed: ")
    assert lines[10:12] == ["> **last**", "**last**"]
    assert lines[12].startswith("the session has ended: ")

    markdown = place.run("transcript", session_id, "--markdown").stdout
    assert markdown.startswith(f"# Session {session_id}: echo as text, default\n")
    assert "## echo\n\nhello\n\n## You, " in markdown
    said = r"- \*\*\?\*\* Say it\n- \*\*!\*\* Reject \(by the relay's own token\)\n\npermission: no\n\n## You"
    assert re.search(said, markdown)
    assert "- failed: " in markdown

    entries = [json.loads(line) for line in place.run("transcript", session_id, "--json").stdout.splitlines()]
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))

    tail = place.run("transcript", session_id, "--tail", "1").stdout
    assert "> **last**" in tail
    assert "> /fail" not in tail


class Kept:
    """Records of sessions with these ids."""

    def __init__(self, running: list[str], ended: list[str]) -> None:
        self._running = running
        self._ended = ended

    def sessions(self, *, state: str | None = None) -> list[dict[str, Any]]:
        assert state is None
        return [{"id": each, "agentId": "auth", "state": "ACTIVE"} for each in self._running]

    def ended(self, *, limit: int = 0) -> list[dict[str, Any]]:
        assert limit == 0
        return [{"id": each, "agentId": "db", "state": "CLEANED"} for each in self._ended]

    def session(self, session_id: str) -> dict[str, Any]:
        for session in (*self.sessions(), *self.ended()):
            if session["id"] == session_id:
                return session
        raise RequestRefused(404, "no")

    def transcript(self, session_id: str) -> list[dict[str, Any]]:
        raise NotImplementedError(session_id)


def test_ids_may_be_shortened() -> None:
    records = Kept(["ab1", "ab12", "c1"], ["ab3", "d4"])
    assert full_id(records, "c") == "c1"
    assert full_id(records, "d") == "d4"
    assert full_id(records, "ab1") == "ab1"  # a whole id is no beginning
    with pytest.raises(ClientError) as several:
        full_id(records, "ab")
    assert str(several.value).splitlines() == [
        "'ab' begins the ids of 3 sessions:",
        "  ab1  auth, ACTIVE",
        "  ab12  auth, ACTIVE",
        "  ab3  db, CLEANED",
    ]
    for given, why in (("x", "no session 'x'"), ("", "empty")):
        with pytest.raises(ClientError, match=why):
            full_id(records, given)


def test_what_ended_is_listed_and_resumed(place: Place) -> None:
    session_id = talked(place, "again", "hello")
    header, first, *_ = place.run("sessions", "list", "--ended").stdout.splitlines()
    assert header.split() == ["ID", "ROLE", "AGENT", "OWNER", "PROJECT", "ENDED", "CAUSE", "REASON"]
    assert first.split()[:5] == [session_id, "again", "echo", "local", "default"]
    assert len(json.loads(place.run("sessions", "list", "--ended", "--limit", "1", "--json").stdout)) == 1
    shown = json.loads(place.run("sessions", "show", session_id, "--json").stdout)
    assert (shown["state"], shown["cause"]) == ("CLEANED", "REQUESTED")
    gone = place.run("chat", session_id)
    assert gone.returncode == 1
    assert "relaykit sessions resume ID" in gone.stdout

    done = place.run("sessions", "resume", session_id[:12])
    assert (done.returncode, done.stdout) == (
        0,
        f"session {session_id} is being started: relaykit chat {session_id}\n",
    )
    chat = place.run("chat", session_id, typed="more\n/stop\n")
    assert chat.returncode == 0, chat
    assert [line for line in chat.stdout.splitlines() if line.startswith(">")] == [
        "> hello",
        "> more",
        "> /stop",
    ]
    running = place.run("sessions", "resume", "x")
    assert (running.returncode, running.stdout) == (1, "")


def test_without_a_relay_the_storage_is_read(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with serving(place):
        ended = talked(place, "over", "hello")
        left = place.run("chat", "--role", "lasting", typed="and on\n")
        lasting = left.stdout.split()[1].removesuffix(":")
    assert "> hello" in place.run("transcript", ended).stdout
    assert "> and on" in place.run("transcript", lasting[:12]).stdout
    listed = place.run("sessions", "list").stdout
    assert [lasting, "lasting", "echo", "local", "default", "ACTIVE,", "asleep"] in [
        row.split()[:7] for row in listed.splitlines()
    ]
    assert ended in place.run("sessions", "list", "--ended").stdout
    assert json.loads(place.run("sessions", "list", "--state", "created", "--json").stdout) == []
    unknown = place.run("sessions", "list", "--state", "gone")
    assert unknown.stderr.startswith("relaykit: there is no state 'gone'; known: CREATED")
    nobody = place.run("sessions", "show", "nobody")
    assert nobody.stderr.startswith("relaykit: no session 'nobody'")
    for action in ("stop", "resume"):
        done = place.run("sessions", action, ended)
        assert done.returncode == 1
        assert "start one with `relaykit serve`" in done.stderr
    forgets = place.run("transcript", ended, RELAYKIT_RELAY__STORAGE="memory")
    assert "start one with `relaykit serve`" in forgets.stderr
    with serving(place):
        chat = place.run("chat", lasting, typed="further\n/stop\n")
        assert chat.returncode == 0, chat


@pytest.mark.parametrize("arguments", [("--tail", "0"), ("--tail", "x"), ("--json", "--markdown")])
def test_what_is_no_command_line(place: Place, arguments: tuple[str, ...]) -> None:
    assert place.run("transcript", "x", *arguments).returncode == 2


# ---------------------------------------------------------------- what is written of each entry


def entry(
    kind: str, body: Any = None, *, method: str = "", ref: str = "", failed: bool = False
) -> dict[str, Any]:
    return {
        "seq": 1,
        "at": "2026-01-02T03:04:05.000Z",
        "kind": kind,
        "method": method,
        "ref": ref,
        "failed": failed,
        "body": body,
    }


def update(kind: str, /, **fields: Any) -> dict[str, Any]:
    return entry("UPDATE", {"update": {"sessionUpdate": kind, **fields}}, method="session/update")


STORY = [
    entry("NOTICE", {"worktreeDir": "/w"}, method="active"),
    entry("PROMPT", {"prompt": [{"type": "text", "text": "do it"}, {"type": "image"}]}, ref="t1"),
    update("agent_message_chunk", content={"type": "text", "text": "I "}),
    update("agent_message_chunk", content={"type": "text", "text": "will"}),
    update("tool_call", toolCallId="c1", title="Write `x`", kind="edit"),
    update("tool_call_update", toolCallId="c1", status="failed"),
    entry(
        "REQUEST",
        {"toolCall": {"toolCallId": "c1"}, "options": [{"optionId": "y", "name": "Allow"}]},
        method="session/request_permission",
        ref="q1",
    ),
    entry("DECISION", {"outcome": {"outcome": "selected", "optionId": "y"}}, ref="q1"),
    entry(
        "NOTICE",
        {"requestId": "q1", "by": "rule 2", "outcome": "allowed", "reason": "allow: all"},
        method="decided",
    ),
    entry("REQUEST", {"message": "Which one?"}, method="elicitation/create", ref="q2"),
    entry("DECISION", {"outcome": {"outcome": "cancelled"}}, ref="q2"),
    entry("CALL", {"modeId": "shout"}, method="session/set_mode", ref="k1"),
    entry("RESULT", {}, ref="k1"),
    entry("TURN_END", {"code": -1, "message": "interrupted: bye"}, ref="t1", failed=True),
    entry("NOTICE", {"reason": "it died"}, method="agent_crashed"),
    entry("NOTICE", {"reason": "nobody came"}, method="asleep"),
    entry("NOTICE", {"reason": "no program"}, method="wake_failed"),
    entry("NOTICE", {}, method="awake"),
    entry("NOTICE", {}, method="something new"),
    entry("UPDATE", None, method="x"),
    entry("PROMPT", {"prompt": []}, ref="t2"),
    entry("TURN_END", {"stopReason": "cancelled"}, ref="t2"),
    entry("NOTICE", {"cause": "REQUESTED", "reason": "enough", "cleanup": []}, method="ended"),
]


def test_every_kind_as_text() -> None:
    stream = io.StringIO()
    transcript = Transcript(Screen(stream, colours=False), prompts=False)
    tell(STORY, PlainTeller(transcript))
    transcript.end_line()
    assert stream.getvalue().splitlines() == [
        "the agent works in /w",
        "── 2026-01-02T03:04:05.000Z",
        "> do it",
        "[image]",
        "I will",
        "* Write `x` (edit): failed",
        "? Write `x`",
        "  Allow (by rule 2, allow: all)",
        "? Which one?",
        "  cancelled",
        "(set_mode: shout)",
        "failed: interrupted: bye",
        "(the agent crashed, and is started again: it died)",
        "(asleep: nobody came)",
        "(asleep still, the agent could not be started: no program)",
        "(awake again)",
        "── 2026-01-02T03:04:05.000Z",
        "> ",
        "(cancelled)",
        "the session has ended: enough",
    ]


def test_every_kind_as_markdown() -> None:
    stream = io.StringIO()
    teller = MarkdownTeller(stream, agent="claude")
    teller.begin("Session s1")
    tell(STORY, teller)
    teller.end()
    assert (
        stream.getvalue()
        == """\
# Session s1

## You, 2026-01-02T03:04:05.000Z

do it
[image]

## claude

I will

- `Write x` (edit)
- `Write x`: failed
- **?** Write `x`
- **!** Allow (by rule 2, allow: all)
- **?** Which one?
- **!** cancelled
- (set_mode: shout)
- failed: interrupted: bye
- (agent crashed: it died)
- (asleep: nobody came)
- (wake failed: no program)

## You, 2026-01-02T03:04:05.000Z



## claude

- (cancelled)
- the session has ended: enough
"""
    )


def test_the_last_turns_and_what_is_behind_them() -> None:
    assert list(last_turns(STORY, 1)) == STORY[20:]
    assert list(last_turns(STORY, 2)) == STORY[1:]
    assert list(last_turns(STORY[:1], 2)) == []
