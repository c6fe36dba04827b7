"""Time, injected: nothing else in relaykit reads the machine's clocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where times come from. Both methods are synchronous, cheap, and safe from any thread."""

    def now(self) -> datetime:
        """Return the time of day, aware and in UTC. It may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment. Never goes back: for durations."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the time of day, aware and in UTC."""
        return datetime.now(UTC)  # noqa: TID251 -- the one place

    def monotonic(self) -> float:
        """Return the machine's monotonic clock, in seconds."""
        return time.monotonic()
