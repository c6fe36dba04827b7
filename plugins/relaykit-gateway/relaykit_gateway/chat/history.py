"""History: a recorded transcript, told to people as a chat shows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from relaykit_gateway.acp_client import PERMISSION, Json, SessionEnded
from relaykit_gateway.chat.permissions import in_words
from relaykit_gateway.chat.telling import Teller
from relaykit_gateway.chat.transcript import Transcript, kind_of, objects, text_of
from relaykit_gateway.terminal.screen import Style, shortened

_TITLE = 2000


def last_turns(entries: Iterable[Json], count: int) -> Iterator[Json]:
    """Yield the entries of the last turns, with what was said behind each."""
    turns: deque[list[Json]] = deque(maxlen=count)
    for entry in entries:
        if entry["kind"] == "PROMPT":
            turns.append([])
        if turns:
            turns[-1].append(entry)
    for turn in turns:
        yield from turn


def tell(entries: Iterable[Json], teller: Teller) -> None:
    """Tell of each entry: what people and the agent have said, and what became of turns and questions."""
    questions: dict[str, Json] = {}
    for entry, behind in _with_next(entries):
        body = entry["body"] if isinstance(entry["body"], Mapping) else {}
        match entry["kind"]:
            case "PROMPT":
                text = "\n".join(text_of(block) for block in objects(body.get("prompt")))
                teller.prompt(text, str(entry["at"]))
            case "UPDATE":
                if isinstance(update := body.get("update"), Mapping):
                    teller.update(update)
            case "REQUEST":
                questions[entry["ref"]] = body
                teller.question(str(entry["method"]), body)
            case "DECISION":
                words = in_words(questions.pop(entry["ref"], {}), body)
                teller.answer(words + _signature(behind))
            case "TURN_END":
                error = str(body.get("message") or "it was not told why") if entry["failed"] else ""
                teller.turn_end(str(body.get("stopReason") or "end_turn"), error)
            case "NOTICE":
                teller.notice(str(entry["method"]), body)
            case "CALL":
                teller.call(str(entry["method"]), body)


def _with_next(entries: Iterable[Json]) -> Iterator[tuple[Json, Json | None]]:
    """Yield each entry with the one behind it."""
    here: Json | None = None
    for entry in entries:
        if here is not None:
            yield here, entry
        here = entry
    if here is not None:
        yield here, None


def _signature(behind: Json | None) -> str:
    """Return who or what gave an answer, in brackets; nothing if the entry behind it does not tell."""
    if behind is None or behind["kind"] != "NOTICE" or behind["method"] != "decided":
        return ""
    body = behind["body"]
    reason = f", {body['reason']}" if body.get("reason") else ""
    by = f"by {body.get('by')}{reason}"
    return f" ({shortened(by, _TITLE)})"


class PlainTeller:
    """Writes it as `Transcript` does: one line a tool call, the agent's words as they are, or rendered."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript

    def prompt(self, text: str, at: str) -> None:
        """Write when it was said, and what."""
        self._transcript.note(f"── {at}")
        self._transcript.typed(text)

    def update(self, update: Json) -> None:
        """Write what the agent says or does."""
        self._transcript.update(update)

    def question(self, method: str, params: Json) -> None:
        """Write what the agent asked."""
        title = asked(method, params, self._transcript.title_of)
        self._transcript.note(shortened(f"? {title}", _TITLE), Style.YELLOW)

    def answer(self, words: str) -> None:
        """Write what was answered."""
        self._transcript.note(f"  {words}", Style.YELLOW)

    def turn_end(self, stop_reason: str, error: str) -> None:
        """Write how the turn ended, if it is worth a word."""
        self._transcript.turn_end(stop_reason)
        if error:
            self._transcript.note(f"failed: {error}", Style.RED)

    def notice(self, word: str, body: Json) -> None:
        """Write what the relay said."""
        reason = str(body.get("reason", ""))
        match word:
            case "active":
                self._transcript.note(f"the agent works in {body.get('worktreeDir')}")
            case "agent_crashed":
                self._transcript.crashed(reason)
            case "asleep":
                self._transcript.asleep(reason)
            case "awake":
                self._transcript.awake()
            case "wake_failed":
                self._transcript.wake_failed(reason)
            case "undelivered":
                self._transcript.note(f"the agent could not be given the answer: {reason}", Style.RED)
            case "ended":
                self._transcript.ended(ended_of(body))
            case _:
                pass

    def call(self, method: str, params: Json) -> None:
        """Write what else was asked of the agent."""
        self._transcript.note(f"({called(method, params)})")


def asked(method: str, params: Json, title_of: Callable[[Json], str]) -> str:
    """Return what a question asks.

    :param title_of: returns what a tool call is called, in what is said of it now or before.
    """
    if method == PERMISSION:
        call = params.get("toolCall")
        call = call if isinstance(call, Mapping) else {}
        return (title_of(call) or "the agent asks for a permission") + kind_of(call)
    return str(params.get("message") or method)


def called(method: str, params: Json) -> str:
    """Return on one line what was asked of the agent: its values are short, as a mode's id."""
    values = ", ".join(str(value) for value in params.values() if isinstance(value, str))
    return shortened(f"{method.removeprefix('session/')}: {values}", 200)


def ended_of(body: Json) -> SessionEnded:
    """Return how a session ended, as the notice says."""
    cleanup: Any = body.get("cleanup")
    return SessionEnded(
        session_id="",
        cause=str(body.get("cause", "")),
        reason=str(body.get("reason", "")),
        cleanup=objects(cleanup),
    )
