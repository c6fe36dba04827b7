"""What comes to a client of ``/acp``, one dataclass for each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaykit_gateway.address import ClientError

Json = Mapping[str, Any]
"""A JSON object as the relay sent it, with every field that it had."""

PERMISSION = "session/request_permission"
ELICITATION = "elicitation/create"


class AcpError(ClientError):
    """A request was answered with an error.

    :param code: JSON-RPC's, or ACP's: -32000 login needed, -32002 no such session.
    :param data: whatever the relay, or the agent, says besides; None for nothing.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data

    @property
    def word(self) -> str:
        """The relay's own word for what is wrong, as ``DUPLICATE_ROLE``; empty if the agent has answered."""
        said = self.data.get("relaykit") if isinstance(self.data, Mapping) else None
        return str(said.get("code", "")) if isinstance(said, Mapping) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    """A session was created, loaded or resumed by this client, which hears of it from here on.

    Of one that was loaded, everything that was said before comes ahead of this.

    :param result: the whole answer: ``modes``, ``models``, ``configOptions`` and what else the agent said.
    :param epoch: the numbering; `seq` is the newest entry's. Give both to `AcpClient.load_session` later, to
        hear only what was said since.
    :param turn_running: the id of the turn that runs, if one does.
    :param cwd: where the agent works, on the relay's machine.
    """

    session_id: str
    result: Json
    role: str
    agent: str
    project: str
    cwd: str
    epoch: str
    seq: int
    turn_running: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A ``session/update``: what the agent says and does, and what other clients say to it.

    :param update: ACP's object, with its ``sessionUpdate``.
    """

    session_id: str
    seq: int
    update: Json

    @property
    def text(self) -> str:
        """What the agent says by it; empty if it says something in another way, or is not the agent's."""
        content = self.update.get("content")
        if self.update.get("sessionUpdate") != "agent_message_chunk" or not isinstance(content, Mapping):
            return ""
        return str(content.get("text", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The agent asks something that somebody must answer: a permission, or another request of ACP.

    It comes again when the session is loaded or resumed, as long as nobody has answered.

    :param id: the same on every connection.
    :param method: `PERMISSION`, `ELICITATION` …
    """

    session_id: str
    seq: int
    id: str
    method: str
    params: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionClosed:
    """A question was answered by somebody else, or is not asked any more.

    :param by: the name of a client's token, ``rule 2``, a plugin's name, ``agent`` or ``relay``; empty if the
        transcript does not tell.
    :param client: the id of the client that answered; empty if none did.
    """

    session_id: str
    id: str
    by: str
    client: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """A prompt went to the agent."""

    session_id: str
    seq: int
    turn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """A turn is over, whoever's prompt it was; what was said in it has come before.

    :param stop_reason: ``end_turn``, ``max_tokens``, ``max_turn_requests``, ``refusal``, ``cancelled``; empty if
        it failed.
    :param error: why it failed, or None.
    """

    session_id: str
    seq: int
    turn: str
    stop_reason: str
    error: AcpError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Entries that are not kept any more: the first and the last of them."""

    session_id: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCrashed:
    """The session's agent ended by itself in the midst of a turn, and is started again.

    :param reason: how it ended, and its last words.
    """

    session_id: str
    seq: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAsleep:
    """The session's agent was stopped; the next prompt, or whoever opens the session, has it started again.

    :param reason: why, for people.
    """

    session_id: str
    seq: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAwake:
    """The session's agent runs again, and goes on where it was."""

    session_id: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeFailed:
    """The session's agent could not be started again; the session sleeps on.

    What waited for it has its answer: an error, or a `TurnEnded` with one.
    """

    session_id: str
    seq: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    """The session is over, and everything of it was cleaned up.

    :param cause: ``REQUESTED``, ``AGENT_EXITED`` …; `reason` says it to people.
    :param cleanup: what each cleaner did: ``{cleaner, outcome, detail}``.
    """

    session_id: str
    cause: str
    reason: str
    cleanup: Sequence[Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Any other notification, as it came; of no session if it names none."""

    session_id: str
    seq: int
    method: str
    params: Json


Event = (
    SessionOpened
    | Update
    | Question
    | QuestionClosed
    | TurnStarted
    | TurnEnded
    | Gap
    | AgentCrashed
    | SessionAsleep
    | SessionAwake
    | WakeFailed
    | SessionEnded
    | Notification
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What one entry of a transcript said.

    :param events: as they came, or would have come. A `Question` among them was put then: it may be closed by now.
    """

    seq: int
    events: Sequence[Event]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """A page of what was said.

    :param entries: the newest first.
    :param next: what to give as `before` for the page before it; None at the beginning.
    :param epoch: the numbering; empty once the session has ended.
    :param gap: what is not kept any more, before this page.
    """

    session_id: str
    entries: Sequence[Past]
    next: int | None
    epoch: str
    gap: Gap | None
