"""The life of a session as a table, and the pure function over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from relaykit.errors import TransitionError
from relaykit.session.cleaner import CleanupReport
from relaykit.session.model import Session, SessionState


class Event(StrEnum):
    """What can happen to a session that exists."""

    SPAWN = "SPAWN"
    ACTIVATE = "ACTIVATE"
    TERMINATE = "TERMINATE"
    CLEAN = "CLEAN"


TRANSITIONS: Mapping[tuple[SessionState, Event], SessionState] = MappingProxyType(
    {
        (SessionState.CREATED, Event.SPAWN): SessionState.SPAWNING,
        (SessionState.CREATED, Event.TERMINATE): SessionState.TERMINATING,  # early cancel
        (SessionState.SPAWNING, Event.ACTIVATE): SessionState.ACTIVE,
        (SessionState.SPAWNING, Event.TERMINATE): SessionState.TERMINATING,  # spawn failure
        (SessionState.ACTIVE, Event.TERMINATE): SessionState.TERMINATING,
        (SessionState.TERMINATING, Event.CLEAN): SessionState.CLEANED,
        (SessionState.TERMINATING, Event.TERMINATE): SessionState.TERMINATING,  # idempotent
    }
)
"""Every legal pair. CLEANED is terminal: no pair begins with it."""


def next_state(state: SessionState, event: Event) -> SessionState:
    """Return the state that `event` leads to.

    :raises TransitionError: the pair is not in `TRANSITIONS`.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise TransitionError(state, event) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One committed change of state.

    :param before: None when the session was created.
    :param event: None when the session was created.
    :param actor: who asked: ``client``, ``relay``, a plugin's name …
    :param report: what the cleaners did; on the last transition only.
    """

    before: Session | None
    after: Session
    event: Event | None
    actor: str
    at: datetime
    report: CleanupReport | None = None
