"""Happenings: what hooks in the settings may be for, and the facts that each comes with. Never what was said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from relaykit.hooks.events import (
    AccessRefused,
    CallMade,
    CleanupFailed,
    ClientAttached,
    ClientDetached,
    FellAsleep,
    QuestionAnswered,
    QuestionAsked,
    TurnEnded,
    TurnStarted,
    WokeUp,
)
from relaykit.session import Session, Transition

Fact = str | int | float | None
Facts = Mapping[str, Fact]

_TITLE = 300
"""Characters of what an agent wants to do."""
_WHY = 1000
"""Characters of a reason: it may hold the last words of a program."""

_SESSION = ("session_id", "agent_id", "agent", "project", "owner", "worktree_dir")
_END = ("cause", "reason")
_CLIENT = (*_SESSION, "client_id", "by", "protocol", "access")
_QUESTION = ("question", "method", "tool", "tool_kind")

_TRANSITION = "relaykit_on_transition"
_ASLEEP = "relaykit_on_asleep"


@dataclass(frozen=True, slots=True)
class Kind:
    """One word for `on`.

    :param when: what has happened, for people.
    :param fields: the names of the facts.
    :param hook: which of relaykit's tells of it.
    """

    when: str
    fields: tuple[str, ...]
    hook: str


EVENTS: Mapping[str, Kind] = MappingProxyType(
    {
        "created": Kind("a session was created, or one that had ended was resumed", _SESSION, _TRANSITION),
        "spawning": Kind("its agent is being started", _SESSION, _TRANSITION),
        "active": Kind("its agent is ready", _SESSION, _TRANSITION),
        "terminating": Kind("its end begins, whatever the cause", (*_SESSION, *_END), _TRANSITION),
        "cleaned": Kind("it is over", (*_SESSION, *_END), _TRANSITION),
        "cleanup_failed": Kind(
            "a cleaner failed", (*_SESSION, *_END, "cleaner", "detail"), "relaykit_on_cleanup_failed"
        ),
        "turn_started": Kind(
            "a prompt went to the agent",
            (*_SESSION, "turn", "client_id", "by"),
            "relaykit_on_turn_started",
        ),
        "turn_ended": Kind(
            "the agent has finished", (*_SESSION, "turn", "outcome", "seconds"), "relaykit_on_turn_ended"
        ),
        "asleep": Kind("its agent was stopped until somebody wants it", (*_SESSION, "reason"), _ASLEEP),
        "crashed": Kind(
            "its agent ended by itself in mid-turn, and is to be started again",
            (*_SESSION, "reason"),
            _ASLEEP,
        ),
        "awake": Kind("its agent was started again where it was", _SESSION, "relaykit_on_awake"),
        "call": Kind(
            "somebody changed a mode, a model or an option",
            (*_SESSION, "method", "client_id", "by"),
            "relaykit_on_call",
        ),
        "question": Kind(
            "the agent asks, and waits for somebody", (*_SESSION, *_QUESTION), "relaykit_on_question_asked"
        ),
        "answered": Kind(
            "a question is over",
            (*_SESSION, *_QUESTION, "outcome", "reason", "seconds", "client_id", "by"),
            "relaykit_on_question_answered",
        ),
        "attached": Kind("a client follows a session", _CLIENT, "relaykit_on_client_attached"),
        "detached": Kind("it does no more", _CLIENT, "relaykit_on_client_detached"),
        "refused": Kind(
            "somebody was not let in",
            ("where", "address", "status", "reason"),
            "relaykit_on_access_refused",
        ),
    }
)
"""Every word for `on`."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened.

    :param event: of `EVENTS`, whose fields `facts` has.
    """

    event: str
    at: datetime
    facts: Facts

    @property
    def lane(self) -> str:
        """What it is in order with: its session's id; empty for what is of none."""
        return str(self.facts.get("session_id", ""))

    def as_json(self) -> bytes:
        """Return it as programs read and receivers get it, in the form that Standard Webhooks recommends."""
        said = {"type": self.event, "timestamp": self.at.isoformat(), "data": dict(self.facts)}
        return json.dumps(said, separators=(",", ":")).encode()


def of_transition(transition: Transition) -> Happening:
    """Return a change of state by the state's name."""
    session = transition.after
    event = session.state.lower()
    end = _end(session) if "cause" in EVENTS[event].fields else {}
    return Happening(event, transition.at, {**_session(session), **end})


def of_cleanup_failed(failure: CleanupFailed, at: datetime) -> Happening:
    """Return that a cleaner failed."""
    facts: Facts = {"cleaner": failure.result.cleaner, "detail": failure.result.detail[:_WHY]}
    return Happening("cleanup_failed", at, {**_session(failure.session), **_end(failure.session), **facts})


def of_turn_started(turn: TurnStarted) -> Happening:
    """Return that a prompt went to the agent."""
    facts: Facts = {"turn": turn.turn, "client_id": turn.client_id, "by": turn.by}
    return Happening("turn_started", turn.at, {**_session(turn.session), **facts})


def of_turn_ended(turn: TurnEnded) -> Happening:
    """Return that a turn is over."""
    facts: Facts = {"turn": turn.turn, "outcome": turn.outcome, "seconds": round(turn.seconds, 3)}
    return Happening("turn_ended", turn.at, {**_session(turn.session), **facts})


def word_for(sleep: FellAsleep) -> str:
    """Return the event that a sleep is."""
    return "crashed" if sleep.crashed else "asleep"


def of_asleep(sleep: FellAsleep) -> Happening:
    """Return that a session's agent is not there any more, and the session is."""
    return Happening(word_for(sleep), sleep.at, {**_session(sleep.session), "reason": sleep.reason[:_WHY]})


def of_awake(waking: WokeUp) -> Happening:
    """Return that a session's agent was started again."""
    return Happening("awake", waking.at, _session(waking.session))


def of_call(made: CallMade) -> Happening:
    """Return that a client asked something besides of the agent."""
    facts: Facts = {"method": made.call.method, "client_id": made.client_id, "by": made.by}
    return Happening("call", made.at, {**_session(made.session), **facts})


def of_question(asked: QuestionAsked) -> Happening:
    """Return that the agent asks something."""
    return Happening("question", asked.at, {**_session(asked.session), **_question(asked)})


def of_answered(answer: QuestionAnswered) -> Happening:
    """Return that a question is over."""
    facts: Facts = {
        "outcome": answer.outcome,
        "reason": answer.reason[:_WHY],
        "seconds": round(answer.seconds, 3),
        "client_id": answer.client_id,
        "by": answer.by,
    }
    return Happening("answered", answer.at, {**_session(answer.session), **_question(answer), **facts})


def of_client(event: str, client: ClientAttached | ClientDetached) -> Happening:
    """Return that a client came or went."""
    facts: Facts = {
        "client_id": client.client_id,
        "by": client.by,
        "protocol": client.protocol,
        "access": client.role,
    }
    return Happening(event, client.at, {**_session(client.session), **facts})


def of_refused(refusal: AccessRefused) -> Happening:
    """Return that somebody was not let in."""
    facts: Facts = {
        "where": refusal.where,
        "address": refusal.address,
        "status": refusal.status,
        "reason": refusal.reason[:_WHY],
    }
    return Happening("refused", refusal.at, facts)


def _session(session: Session) -> Facts:
    return {name: getattr(session, "id" if name == "session_id" else name) for name in _SESSION}


def _end(session: Session) -> Facts:
    return {"cause": session.cause, "reason": (session.reason or "")[:_WHY]}


def _question(question: QuestionAsked | QuestionAnswered) -> Facts:
    request = question.request
    tool = _tool(request.body)
    return {
        "question": request.ref,
        "method": request.method,
        "tool": str(tool.get("title") or "")[:_TITLE],
        "tool_kind": str(tool.get("kind") or "")[:_TITLE],
    }


def _tool(body: bytes) -> Mapping[str, Any]:
    """Return what an agent says of the tool that it wants to use; nothing where it asks something else."""
    try:
        said = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    tool = said.get("toolCall") if isinstance(said, dict) else None
    return tool if isinstance(tool, dict) else {}
