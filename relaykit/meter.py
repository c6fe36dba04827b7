"""Figures: what is counted and measured, and the two-method Meter that a metrics plugin provides.

Every figure is declared here once, with its labels and their values, so that a metrics plugin can show
each at zero before it first happens. A figure is not a hook: `count` and `observe` are synchronous and
are called where things happen, also on hot paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class FigureKind(StrEnum):
    """How a figure adds up."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is counted or measured.

    :param name: without prefix and unit suffix rules applied: ``session_transitions``.
    :param unit: ``seconds`` or ``bytes`` for what is observed; empty for counts.
    :param labels: each label with all its values, or with none where they are only known at run time
        (a plugin's name). Never a session id: the number of series must not depend on the sessions.
    """

    name: str
    kind: FigureKind
    help: str
    unit: str = ""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


class Meter(Protocol):
    """Takes figures. Both methods are synchronous, must not block, and are called on the relay's loop."""

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Add `amount` (≥ 0) to a counter."""
        ...

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Record one value of a histogram, in the figure's unit."""
        ...


class NoMeter:
    """Takes every figure and keeps none."""

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Forget it."""

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Forget it."""


NO_METER: Meter = NoMeter()


SESSION_TRANSITIONS = Figure(
    "session_transitions",
    FigureKind.COUNTER,
    "Transitions that were asked for, by event and by what became of them.",
    labels={
        "event": ("CREATE", "SPAWN", "ACTIVATE", "TERMINATE", "CLEAN"),
        "outcome": ("done", "illegal", "failed"),
    },
)
MESSAGES = Figure(
    "messages",
    FigureKind.COUNTER,
    "Frames that were recorded, by direction.",
    labels={"direction": ("to_agent", "from_agent")},
)
HOOK_FAILURES = Figure(
    "hook_failures",
    FigureKind.COUNTER,
    "Hook implementations that raised, overran their deadline, or were switched off.",
    labels={"plugin": (), "hook": (), "failure": ("error", "overrun", "switched_off")},
)
HOOK_SECONDS = Figure(
    "hook",
    FigureKind.HISTOGRAM,
    "Time that a hook implementation took.",
    unit="seconds",
    labels={"plugin": (), "hook": ()},
)
CLIENTS_STALLED = Figure(
    "clients_stalled",
    FigureKind.COUNTER,
    "Clients that were sent away because they took nothing of what there was for them, by protocol.",
    labels={"protocol": ("acp", "ws")},
)
AGENT_CRASHES = Figure(
    "agent_crashes",
    FigureKind.COUNTER,
    "Agents that ended by themselves in the midst of a turn or a question.",
)

FIGURES: tuple[Figure, ...] = (
    SESSION_TRANSITIONS,
    MESSAGES,
    HOOK_FAILURES,
    HOOK_SECONDS,
    CLIENTS_STALLED,
    AGENT_CRASHES,
)
