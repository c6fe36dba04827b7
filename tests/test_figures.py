"""Figures know all values of their labels, though they may not import what these come from."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from relaykit.errors import AgentOverLimit, SpawnError, WorkspaceError
from relaykit.meter import (
    AGENT_SPAWN_FAILURES,
    CLEANUPS,
    CLIENT_ATTACHES,
    CLIENTS,
    FIGURES,
    QUESTION_WAIT,
    SESSION_TERMINATIONS,
    SESSIONS,
    STORAGE_ERRORS,
    STORAGE_SECONDS,
    Figure,
    FigureKind,
)
from relaykit.relay import deciders
from relaykit.relay.access import Role
from relaykit.relay.measured_storage import MeasuredJournal, MeasuredStore
from relaykit.session import Cause, Outcome, SessionState

_OPERATIONS = [
    f"{part}_{name}"
    for part, kind in (("store", MeasuredStore), ("journal", MeasuredJournal))
    for name in vars(kind)
    if not name.startswith("_") and name != "durable"
]
_START_ERRORS = [
    kind.__name__
    for kind in (
        *SpawnError.__subclasses__(),
        AgentOverLimit,
        WorkspaceError,
        *WorkspaceError.__subclasses__(),
    )
    if kind.__module__ == "relaykit.errors"  # a plugin's own count as the one that they are one of
]


@pytest.mark.parametrize(
    ("figure", "label", "values"),
    [
        (SESSIONS, "state", SessionState),
        (SESSION_TERMINATIONS, "cause", Cause),
        (CLEANUPS, "outcome", Outcome),
        (CLIENTS, "role", Role),
        (CLIENT_ATTACHES, "role", Role),
        (AGENT_SPAWN_FAILURES, "error", [*_START_ERRORS, "other"]),
        (
            QUESTION_WAIT,
            "outcome",
            [deciders.ANSWERED, deciders.ALLOWED, deciders.REFUSED, deciders.EXPIRED, deciders.CANCELLED],
        ),
        (STORAGE_SECONDS, "operation", _OPERATIONS),
        (STORAGE_ERRORS, "operation", _OPERATIONS),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_label_has_every_value_that_there_is(figure: Figure, label: str, values: Iterable[str]) -> None:
    assert sorted(figure.labels[label]) == sorted(values)


def test_figures_are_one_each_and_made_as_their_kind_wants() -> None:
    assert len({figure.name + figure.unit for figure in FIGURES}) == len(FIGURES)
    for figure in FIGURES:
        assert figure.help.endswith("."), figure.name
        assert not figure.buckets or figure.kind is FigureKind.HISTOGRAM, figure.name
        assert list(figure.buckets) == sorted(set(figure.buckets)), figure.name
        assert not {"session", "session_id", "agent_id", "owner", "project"} & figure.labels.keys()
