"""What hooks receive: one frozen dataclass each, so that a new field breaks nobody.

`Transition`, `CleanerResult` and `Session` come from `relaykit.session`; the rest is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from relaykit.conversation.frame import Frame
from relaykit.conversation.journal import Entry
from relaykit.session.cleaner import CleanerResult
from relaykit.session.model import Session
from relaykit.session.state_machine import Transition

__all__ = [
    "AccessRefused",
    "CallMade",
    "CleanupFailed",
    "ClientAttached",
    "ClientDetached",
    "EntriesRecorded",
    "FellAsleep",
    "ModeRequest",
    "PermissionRequest",
    "PromptRequest",
    "QuestionAnswered",
    "QuestionAsked",
    "SessionRequest",
    "Transition",
    "TurnEnded",
    "TurnStarted",
    "WokeUp",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupFailed:
    """A cleaner raised or overran; the session becomes CLEANED all the same."""

    session: Session
    result: CleanerResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAttached:
    """A client began to follow a session.

    :param session: as it is when this is told; as it ended, if it has.
    :param client_id: this connection's id; it changes with every connection.
    :param protocol: ``ws`` or ``acp``.
    :param after: the seq behind which it asked to begin.
    :param role: ``controller`` or ``observer``: whether it may do anything but watch.
    :param by: what it goes by: the name of its token; or else its id.
    """

    session: Session
    session_id: str
    client_id: str
    protocol: str
    owner: str
    after: int
    at: datetime
    role: str = "controller"
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDetached:
    """A client stopped following a session; the session lives on, unless it had ended before.

    :param session: as of a client that attached.
    """

    session: Session
    session_id: str
    client_id: str
    protocol: str
    at: datetime
    role: str = "controller"
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRefused:
    """Somebody was not let in: the token is missing or wrong, or the page or the name is a foreign one.

    :param where: what was wanted: ``/acp``.
    :param address: where the request came from, as the socket says it; a proxy's own, where there is one.
    :param status: what was answered: 401 or 403.
    :param reason: the same for people. No token is in it.
    :param by: what they go by, where the token is one that there is and may not do this: its name.
    """

    where: str
    address: str
    status: int
    reason: str
    at: datetime
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """A prompt went to the agent.

    :param by: what the client goes by: the name of its token; or else its id.
    """

    session: Session
    turn: str
    client_id: str
    at: datetime
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMade:
    """A client asked something of the agent besides a prompt: a mode, a model, an option.

    :param call: the method and the raw params.
    :param by: as of a turn.
    """

    session: Session
    call: Frame
    client_id: str
    at: datetime
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """The agent's turn is over.

    :param outcome: ``done``, ``failed`` (the agent answered with an error, or went away in mid-turn) or
        ``interrupted`` (the session was ended).
    :param seconds: since the turn started.
    """

    session: Session
    turn: str
    outcome: str
    seconds: float
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FellAsleep:
    """The session's agent is not there any more, and the session is: who wants the agent has it started again.

    :param reason: why it was stopped, or how it ended by itself; for people.
    :param crashed: it ended by itself, in the midst of a turn or a question. It is started again at once if somebody
        is there, or prompts wait.
    """

    session: Session
    reason: str
    crashed: bool
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WokeUp:
    """The session's agent was started again, and goes on where it was."""

    session: Session
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAsked:
    """The agent asks something that somebody must answer."""

    session: Session
    request: Frame
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswered:
    """A question was answered.

    :param by: who or what: what a client goes by (the name of its token, or its id), a plugin's name, ``rule 2`` of
        the settings, ``relay`` when the turn was cancelled or the time was over, or ``agent`` when it does not want
        an answer any more.
    :param outcome: ``answered``; ``allowed`` or ``refused``, by a rule or a policy; ``expired``, refused because
        nobody had answered in time; or ``cancelled``.
    :param reason: what the policy says, or the rule; for people.
    :param client_id: of the client that answered; empty if none did.
    """

    session: Session
    request: Frame
    decision: Frame
    by: str
    outcome: str
    seconds: float
    at: datetime
    reason: str = ""
    client_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesRecorded:
    """What was said, in batches, through a cursor of its own: never in the way of the conversation."""

    session: Session
    epoch: str
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """Somebody wants a new session. Asked before anything is made."""

    agent_id: str
    agent: str
    project: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRequest:
    """Somebody wants to say something to the agent. `body` is the raw JSON of the prompt's params."""

    session: Session
    client_id: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRequest:
    """The agent asks for permission. A refusal declines it before any person sees it."""

    session: Session
    request: Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRequest:
    """Somebody wants to change the agent's mode or one of its options. `call` holds the method and raw params."""

    session: Session
    client_id: str
    call: Frame
