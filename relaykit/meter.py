"""Figures: what is counted and measured, and the Meter that a metrics plugin provides.

Every figure is declared once, with its labels and their values, so that a metrics plugin can show each at zero
before it first happens: relaykit's own here, a plugin's in that plugin. A figure is not a hook: the methods of a
Meter are synchronous and are called where things happen, also on hot paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class FigureKind(StrEnum):
    """How a figure adds up."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"  # looked at when somebody wants to know


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is counted, measured or looked at.

    :param name: without prefix and unit suffix rules applied: ``session_transitions``.
    :param unit: ``seconds`` or ``bytes`` for what is observed; empty for counts.
    :param labels: each label with all its values, or with none where they are only known at run time
        (a plugin's name). Never a session id: the number of series must not depend on the sessions.
    :param buckets: for a histogram, the values that are worth telling apart; empty: those that suit the unit.
    """

    name: str
    kind: FigureKind
    help: str = field(hash=False)
    unit: str = field(default="", hash=False)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    buckets: tuple[float, ...] = field(default=(), hash=False)


Values = Mapping[tuple[str, ...], float]
"""A gauge's values, each under the values of its labels in the figure's order; what is left out is 0."""


class Meter(Protocol):
    """Takes figures. All methods are synchronous, must not block, and are called on the relay's loop."""

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Add `amount` (≥ 0) to a counter."""
        ...

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Record one value of a histogram, in the figure's unit."""
        ...

    def expect(self, figure: Figure, /, **labels: str) -> None:
        """Know of a counter or histogram before it first happens, so that it can be shown at zero.

        :param labels: values that are only known at run time. Labels that are left out take all their values.
        """
        ...

    def watch(self, figure: Figure, read: Callable[[], Values], /) -> None:
        """Call `read` for a gauge's values whenever they are wanted, on the relay's loop, for as long as it lives.

        Several readers of one gauge add up. `read` returns at once, and does not raise.
        """
        ...


class NoMeter:
    """Takes every figure and keeps none."""

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Forget it."""

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Forget it."""

    def expect(self, figure: Figure, /, **labels: str) -> None:
        """Expect nothing."""

    def watch(self, figure: Figure, read: Callable[[], Values], /) -> None:
        """Never look."""


NO_METER: Meter = NoMeter()

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

_LIFE = (1, 5, 15, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, 12 * _HOUR, _DAY, 3 * _DAY, 7 * _DAY)
"""Seconds, from a session that failed to start to one that was kept for a week."""
_SIZES = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
_STARTING = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE)
"""Seconds, from a program that is there to one that has to be fetched first."""
_STOPPING = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds, from a process that ends at once to one that is killed after all graces."""
_THINKING = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR)
"""Seconds, from an echo to a long piece of work."""
_DECIDING = (0.01, 0.1, 1, 5, 15, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, _DAY)
"""Seconds, from a rule's answer to that of somebody who was away for the night."""
_STORING = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
"""Seconds, from memory to a disk or a network in trouble."""

_PROTOCOLS = ("acp", "ws")
_ROLES = ("controller", "observer")
_STATES = ("CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED")


# ---------------------------------------------------------------- sessions

SESSIONS = Figure(
    "sessions",
    FigureKind.GAUGE,
    "Sessions that this relay has, by state. Those that are CLEANED have still to leave the storage.",
    labels={"state": _STATES},
)
SESSIONS_ASLEEP = Figure(
    "sessions_asleep",
    FigureKind.GAUGE,
    "Sessions whose agent sleeps. They are ACTIVE.",
)
SESSION_TRANSITIONS = Figure(
    "session_transitions",
    FigureKind.COUNTER,
    "Transitions that were asked for, by event and by what became of them.",
    labels={
        "event": ("CREATE", "SPAWN", "ACTIVATE", "TERMINATE", "CLEAN"),
        "outcome": ("done", "illegal", "failed"),
    },
)
SESSION_TERMINATIONS = Figure(
    "session_terminations",
    FigureKind.COUNTER,
    "Sessions that were marked TERMINATING, by cause.",
    labels={
        "cause": (
            "REQUESTED",
            "SPAWN_FAILED",
            "AGENT_EXITED",
            "IDLE",
            "GRACE",
            "LIMIT",
            "SHUTDOWN",
            "RESTART",
            "INTERNAL",
        )
    },
)
SESSION_DURATION = Figure(
    "session_duration",
    FigureKind.HISTOGRAM,
    "Time from a session's creation until it was CLEANED.",
    unit="seconds",
    buckets=_LIFE,
)
SESSION_MESSAGES = Figure(
    "session_messages",
    FigureKind.HISTOGRAM,
    "Messages that a session had relayed when it was CLEANED.",
    buckets=_SIZES,
)
CLEANUPS = Figure(
    "cleanups",
    FigureKind.COUNTER,
    "Runs of cleaners, by outcome: at a session's end, and when its agent was put to sleep.",
    labels={"cleaner": (), "outcome": ("DONE", "KEPT", "SKIPPED", "FAILED")},
)

# ---------------------------------------------------------------- agents

WORKSPACE_PREPARE = Figure(
    "workspace_prepare",
    FigureKind.HISTOGRAM,
    "Time until the workspace of a new session was there. Failures are not in it.",
    unit="seconds",
    buckets=_STARTING,
)
AGENT_SPAWN = Figure(
    "agent_spawn",
    FigureKind.HISTOGRAM,
    "Time until an agent took prompts: started for a new session, or woken. Failures are not in it.",
    unit="seconds",
    labels={"agent": ()},
    buckets=_STARTING,
)
AGENT_SPAWN_FAILURES = Figure(
    "agent_spawn_failures",
    FigureKind.COUNTER,
    "Agents that could not be started or woken, by the class of the error, which may be their workspace's.",
    labels={
        "agent": (),
        "error": (
            "ProgramNotFound",
            "WorkingDirectoryMissing",
            "FetchFailed",
            "SpawnQueueTimeout",
            "AgentExited",
            "InitializeTimeout",
            "LoginRequired",
            "AgentProtocolError",
            "AgentOverLimit",
            "NotARepository",
            "WorkspaceError",
            "other",
        ),
    },
)
AGENT_SHUTDOWN = Figure(
    "agent_shutdown",
    FigureKind.HISTOGRAM,
    "Time until nothing was left of a session's agent, at the session's end or to put it to sleep.",
    unit="seconds",
    labels={"agent": ()},
    buckets=_STOPPING,
)
AGENT_CRASHES = Figure(
    "agent_crashes",
    FigureKind.COUNTER,
    "Agents that ended by themselves in the midst of a turn or a question, whether they come back or not.",
)

# ---------------------------------------------------------------- what is said

MESSAGES = Figure(
    "messages",
    FigureKind.COUNTER,
    "Frames that went to agents, and that came from them.",
    labels={"direction": ("to_agent", "from_agent")},
)
MESSAGE_BYTES = Figure(
    "message",
    FigureKind.COUNTER,
    "Size of those frames' bodies.",
    unit="bytes",
    labels={"direction": ("to_agent", "from_agent")},
)
TURNS_RUNNING = Figure("turns_running", FigureKind.GAUGE, "Turns that run.")
PROMPTS_WAITING = Figure("prompts_waiting", FigureKind.GAUGE, "Prompts that wait for their turn.")
TURN_SECONDS = Figure(
    "turn",
    FigureKind.HISTOGRAM,
    "Time from a prompt's way to the agent to the end of its turn.",
    unit="seconds",
    labels={"outcome": ("done", "failed", "interrupted")},
    buckets=_THINKING,
)
FIRST_UPDATE = Figure(
    "turn_first_update",
    FigureKind.HISTOGRAM,
    "Time from a prompt's way to the agent to the first that it said in that turn; turns in which it said nothing "
    "are not in it.",
    unit="seconds",
    buckets=_THINKING,
)
QUESTIONS_WAITING = Figure(
    "questions_waiting", FigureKind.GAUGE, "Questions of agents that wait for somebody's answer."
)
QUESTION_WAIT = Figure(
    "question_wait",
    FigureKind.HISTOGRAM,
    "Time that agents' questions were open, by how they were closed.",
    unit="seconds",
    labels={"outcome": ("answered", "allowed", "refused", "expired", "cancelled")},
    buckets=_DECIDING,
)

# ---------------------------------------------------------------- clients

CLIENTS = Figure(
    "clients",
    FigureKind.GAUGE,
    "Clients that are connected, by protocol and by what they may do.",
    labels={"protocol": _PROTOCOLS, "role": _ROLES},
)
CLIENT_ATTACHES = Figure(
    "client_attaches",
    FigureKind.COUNTER,
    "How often a client began to follow a session.",
    labels={"protocol": _PROTOCOLS, "role": _ROLES},
)
ENTRIES_REPLAYED = Figure(
    "entries_replayed",
    FigureKind.COUNTER,
    "Entries that clients were given which were older than their attaching.",
    labels={"protocol": _PROTOCOLS},
)
GAPS = Figure(
    "gaps",
    FigureKind.COUNTER,
    "How often a client was told that entries it had asked for are kept no more.",
    labels={"protocol": _PROTOCOLS},
)
CLIENTS_STALLED = Figure(
    "clients_stalled",
    FigureKind.COUNTER,
    "Clients that were sent away because they took nothing of what there was for them, by protocol.",
    labels={"protocol": _PROTOCOLS},
)

# ---------------------------------------------------------------- storage and hooks

_OPERATIONS = (
    "store_create",
    "store_save",
    "store_touch",
    "store_get",
    "store_get_by_role",
    "store_list",
    "store_count",
    "store_delete",
    "journal_open",
    "journal_append",
    "journal_read",
    "journal_close",
    "journal_find",
    "journal_ended",
    "journal_trim",
    "journal_delete",
)
STORAGE_SECONDS = Figure(
    "storage_operation",
    FigureKind.HISTOGRAM,
    "Time that the storage took for an operation, also for one that failed.",
    unit="seconds",
    labels={"operation": _OPERATIONS},
    buckets=_STORING,
)
STORAGE_ERRORS = Figure(
    "storage_errors",
    FigureKind.COUNTER,
    "Operations of the storage that failed. A role in use, or a stale version, is an answer and no failure.",
    labels={"operation": _OPERATIONS},
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
    buckets=(0.0005, 0.005, 0.05, 0.5, 5),
)

FIGURES: tuple[Figure, ...] = (
    SESSIONS,
    SESSIONS_ASLEEP,
    SESSION_TRANSITIONS,
    SESSION_TERMINATIONS,
    SESSION_DURATION,
    SESSION_MESSAGES,
    CLEANUPS,
    WORKSPACE_PREPARE,
    AGENT_SPAWN,
    AGENT_SPAWN_FAILURES,
    AGENT_SHUTDOWN,
    AGENT_CRASHES,
    MESSAGES,
    MESSAGE_BYTES,
    TURNS_RUNNING,
    PROMPTS_WAITING,
    TURN_SECONDS,
    FIRST_UPDATE,
    QUESTIONS_WAITING,
    QUESTION_WAIT,
    CLIENTS,
    CLIENT_ATTACHES,
    ENTRIES_REPLAYED,
    GAPS,
    CLIENTS_STALLED,
    STORAGE_SECONDS,
    STORAGE_ERRORS,
    HOOK_SECONDS,
    HOOK_FAILURES,
)
"""Every figure of relaykit's own, in the order in which they are documented."""
