"""Outputs: what ``relaykit run`` writes, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol, TextIO

from relaykit_gateway.acp_client import (
    AcpError,
    Json,
    Question,
    SessionEnded,
    SessionOpened,
    TurnEnded,
    Update,
)
from relaykit_gateway.address import ClientError
from relaykit_gateway.chat.permissions import in_words
from relaykit_gateway.chat.transcript import Transcript, text_of
from relaykit_gateway.terminal.screen import Screen, Style, printable, shortened

_LINE = 200
_MESSAGE = "agent_message_chunk"
_INTERRUPTIONS = frozenset({"tool_call", "plan", "agent_thought_chunk"})


class Output(Protocol):
    """Hears what happens, in order."""

    def opened(self, event: SessionOpened) -> None:
        """Hear which session it is."""
        ...

    def update(self, event: Update) -> None:
        """Hear what the agent says or does."""
        ...

    def question(self, event: Question, answer: Json | None) -> None:
        """Hear what the agent asks, and what was answered; None if a person has to."""
        ...

    def turn_ended(self, event: TurnEnded) -> None:
        """Hear how the turn ended."""
        ...

    def failed(self, error: ClientError) -> None:
        """Hear that it cannot go on."""
        ...

    def note(self, text: str) -> None:
        """Hear what a person should know."""
        ...

    def session_ended(self, event: SessionEnded) -> None:
        """Hear how the session ended, and what is left of it on purpose."""
        ...

    def done(self, exit_code: int) -> None:
        """Hear that this was all."""
        ...


class TextOutput:
    """Writes the answer to one stream, and everything else to a transcript beside it.

    :param answer: gets the agent's words and ends of lines, and nothing else.
    """

    def __init__(self, answer: TextIO, transcript: Transcript) -> None:
        self._answer = Screen.on(answer, plain=True)
        self._transcript = transcript
        self._watched = answer.isatty()  # there, the transcript is most likely seen between the lines
        self._in_line = False
        self._interrupted = False

    def opened(self, event: SessionOpened) -> None:
        """Write which session it is."""
        self.note(f"session {event.session_id}: {event.agent} as {event.role}, in {event.cwd}")

    def update(self, event: Update) -> None:
        """Write it where it belongs."""
        kind = event.update.get("sessionUpdate")
        if kind == _MESSAGE:
            self._say(printable(text_of(event.update.get("content"))))
            return
        if kind in _INTERRUPTIONS:
            self._interrupted = True
        self._show_transcript()
        self._transcript.update(event.update)

    def question(self, event: Question, answer: Json | None) -> None:
        """Write what was asked, and what was answered."""
        tool_call = event.params.get("toolCall")
        title = self._transcript.title_of(tool_call) if isinstance(tool_call, dict) else ""
        asked = title or str(event.params.get("message") or event.method)
        said = "" if answer is None else f": {in_words(event.params, answer)}"
        self.note(shortened(f"? {asked}{said}", _LINE), Style.YELLOW)

    def turn_ended(self, event: TurnEnded) -> None:
        """End the answer's last line, and write how the turn ended if it is worth a word."""
        self._end_line()
        self._transcript.turn_end(event.stop_reason or "end_turn")
        if event.error is not None:
            self.failed(event.error)

    def failed(self, error: ClientError) -> None:
        """Write why."""
        self._end_line()
        self.note(f"relaykit: {error}", Style.RED)

    def note(self, text: str, style: Style = Style.DIM) -> None:
        """Write it beside the answer."""
        self._show_transcript()
        self._transcript.note(text, style)

    def session_ended(self, event: SessionEnded) -> None:
        """Write it beside the answer."""
        self._show_transcript()
        self._transcript.ended(event)

    def done(self, exit_code: int) -> None:  # noqa: ARG002 -- the shell tells
        """End the last lines."""
        self._end_line()
        self._transcript.end_line()

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._watched:
            self._transcript.end_line()
        if self._interrupted:
            self._end_line()
            self._interrupted = False
        self._answer.write(text)
        self._in_line = not text.endswith("\n")

    def _show_transcript(self) -> None:
        if self._watched:
            self._end_line()

    def _end_line(self) -> None:
        if self._in_line:
            self._answer.line()
            self._in_line = False


class JsonOutput:
    """Writes one JSON object a line, in ASCII: ``session``, ``update`` …, ``question``, ``turn``, ``end``.

    :param transcript: gets what a person should know.
    """

    def __init__(self, stream: TextIO, transcript: Transcript) -> None:
        self._stream = stream
        self._transcript = transcript
        self._session_id = ""
        self._cleanup: Sequence[Json] | None = None

    def opened(self, event: SessionOpened) -> None:
        """Write ``session``."""
        self._session_id = event.session_id
        self._write(
            "session",
            sessionId=event.session_id,
            role=event.role,
            agent=event.agent,
            project=event.project,
            cwd=event.cwd,
        )

    def update(self, event: Update) -> None:
        """Write ``update``."""
        self._write("update", seq=event.seq, update=event.update)

    def question(self, event: Question, answer: Json | None) -> None:
        """Write ``question``."""
        self._write(
            "question", seq=event.seq, id=event.id, method=event.method, params=event.params, answer=answer
        )

    def turn_ended(self, event: TurnEnded) -> None:
        """Write ``turn``."""
        error = None if event.error is None else _error(event.error)
        self._write("turn", stopReason=event.stop_reason or None, error=error)

    def failed(self, error: ClientError) -> None:
        """Write ``error``."""
        self._write("error", **_error(error))

    def note(self, text: str) -> None:
        """Tell the person."""
        self._transcript.note(text)

    def session_ended(self, event: SessionEnded) -> None:
        """Keep what ``end`` says of it."""
        self._cleanup = event.cleanup
        self._transcript.ended(event)

    def done(self, exit_code: int) -> None:
        """Write ``end``."""
        self._write("end", exitCode=exit_code, sessionEnded=self._cleanup is not None, cleanup=self._cleanup)

    def _write(self, event: str, **fields: object) -> None:
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()


def _error(error: ClientError) -> Json:
    if isinstance(error, AcpError):
        return {"code": error.code, "message": str(error), "data": error.data}
    return {"message": str(error)}
