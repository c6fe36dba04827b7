"""SessionMetrics: how many sessions there are in each state, and how long they lived."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, Histogram

from relaykit.session import SessionState, Transition

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

LIFE_BUCKETS = (
    1,
    5,
    15,
    _MINUTE,
    5 * _MINUTE,
    15 * _MINUTE,
    _HOUR,
    4 * _HOUR,
    12 * _HOUR,
    _DAY,
    3 * _DAY,
    7 * _DAY,
)
"""Seconds: from a session that failed to start to one that was kept for a week."""


class SessionMetrics:
    """Follows sessions from transition to transition.

    The state of each is remembered until it ends, so that a transition that was never heard of (by a relay
    that found the session in its store, or while this plugin was late) makes no gauge drift or negative.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        sessions = Gauge(
            "relaykit_sessions",
            "Sessions, by state. Those that are CLEANED are no more, so that state stays at 0.",
            ["state"],
            registry=registry,
        )
        self._by_state = {state: sessions.labels(state.value) for state in SessionState}
        self._duration = Histogram(
            "relaykit_session_duration_seconds",
            "Time from a session's creation until it was CLEANED.",
            buckets=LIFE_BUCKETS,
            registry=registry,
        )
        self._states: dict[str, SessionState] = {}

    def follow(self, transition: Transition) -> None:
        """Take in one committed transition."""
        after = transition.after
        before = self._states.pop(after.id, None)
        if before is not None:
            self._by_state[before].dec()
        if after.state is SessionState.CLEANED:
            seconds = (transition.at - after.created_at).total_seconds()
            self._duration.observe(max(0.0, seconds))  # the time of day may have been set back
        else:
            self._states[after.id] = after.state
            self._by_state[after.state].inc()
