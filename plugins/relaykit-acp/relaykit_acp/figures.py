"""What this plugin counts."""

from __future__ import annotations

from relaykit.meter import Figure, FigureKind

SHUTDOWN_STEPS = Figure(
    "agent_shutdown_steps",
    FigureKind.COUNTER,
    "Steps that it took to end agents' processes: the input closed (eof: always), SIGTERM (term) and SIGKILL (kill) "
    "to the group, SIGKILL to those that had left the group (stray).",
    labels={"step": ("eof", "term", "kill", "stray")},
)
LEFTOVERS_REAPED = Figure(
    "agent_leftovers_reaped",
    FigureKind.COUNTER,
    "Processes that earlier relays had left of agents, and that were ended.",
)
FIGURES = (SHUTDOWN_STEPS, LEFTOVERS_REAPED)
