"""Gauges: what a relay's sessions are in the midst of, looked at when a meter wants to know."""

from __future__ import annotations

from collections.abc import Callable

from relaykit.meter import (
    PROMPTS_WAITING,
    QUESTIONS_WAITING,
    SESSIONS_ASLEEP,
    TURNS_RUNNING,
    Figure,
    Meter,
)
from relaykit.relay.live_session import LiveSession
from relaykit.relay.live_sessions import LiveSessions
from relaykit.relay.rest import Presence


def watch_sessions(meter: Meter, sessions: LiveSessions) -> None:
    """Have the meter look at the sessions that run here."""

    def watch(figure: Figure, of: Callable[[LiveSession], int]) -> None:
        meter.watch(figure, lambda: {(): sum([of(live) for live in sessions])})

    watch(SESSIONS_ASLEEP, lambda live: live.rest.presence is Presence.ASLEEP)
    watch(TURNS_RUNNING, lambda live: live.queue.running is not None)
    watch(PROMPTS_WAITING, lambda live: len(live.queue.turns.waiting))
    watch(QUESTIONS_WAITING, lambda live: len(live.questions))
