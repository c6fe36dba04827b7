"""What is counted of actions."""

from __future__ import annotations

from relaykit.meter import Figure, FigureKind

ACTIONS = Figure(
    "actions",
    FigureKind.COUNTER,
    "Actions of hooks in the settings, by kind and by what became of them.",
    labels={"kind": ("run", "post"), "outcome": ("done", "failed", "dropped")},
)
