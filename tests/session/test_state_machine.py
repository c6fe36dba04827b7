"""All 20 pairs of state and event, written out."""

from __future__ import annotations

import pytest

from relaykit.errors import TransitionError
from relaykit.session import TRANSITIONS, Event, SessionState, next_state

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState
SPAWN, ACTIVATE, TERMINATE, CLEAN = Event

EXPECTED: dict[tuple[SessionState, Event], SessionState | None] = {
    (CREATED, SPAWN): SPAWNING,
    (CREATED, ACTIVATE): None,
    (CREATED, TERMINATE): TERMINATING,
    (CREATED, CLEAN): None,
    (SPAWNING, SPAWN): None,
    (SPAWNING, ACTIVATE): ACTIVE,
    (SPAWNING, TERMINATE): TERMINATING,
    (SPAWNING, CLEAN): None,
    (ACTIVE, SPAWN): None,
    (ACTIVE, ACTIVATE): None,
    (ACTIVE, TERMINATE): TERMINATING,
    (ACTIVE, CLEAN): None,
    (TERMINATING, SPAWN): None,
    (TERMINATING, ACTIVATE): None,
    (TERMINATING, TERMINATE): TERMINATING,
    (TERMINATING, CLEAN): CLEANED,
    (CLEANED, SPAWN): None,
    (CLEANED, ACTIVATE): None,
    (CLEANED, TERMINATE): None,
    (CLEANED, CLEAN): None,
}


def test_the_expectations_are_complete() -> None:
    assert list(EXPECTED) == [(state, event) for state in SessionState for event in Event]
    assert len(EXPECTED) == 20


@pytest.mark.parametrize(("state", "event", "after"), [(*pair, after) for pair, after in EXPECTED.items()])
def test_every_pair(state: SessionState, event: Event, after: SessionState | None) -> None:
    if after is not None:
        assert next_state(state, event) is after
        return
    with pytest.raises(TransitionError) as caught:
        next_state(state, event)
    assert (caught.value.state, caught.value.event, caught.value.session_id) == (state, event, None)
    assert f"a session that is {state}: {event} is not possible" in str(caught.value)


def test_the_table_holds_the_legal_pairs_alone() -> None:
    assert dict(TRANSITIONS) == {pair: after for pair, after in EXPECTED.items() if after is not None}


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[CREATED, CLEAN] = CLEANED  # type: ignore[index]
