"""assert_transitions: which states a session went through, with a message that shows where it left the road."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relaykit.session import Transition
from relaykit.testing.fakes import RecordingHooks


def assert_transitions(
    heard: RecordingHooks | Iterable[Transition], *states: str, session_id: str | None = None
) -> None:
    """Check that a session went through these states, in this order and no others, each version told once.

    ::

        assert_transitions(recording_hooks, "CREATED", "SPAWNING", "ACTIVE")

    :param states: from the first on, as they were heard so far. A transition that changes no state (TERMINATE, said
        again) is left out.
    :param session_id: which session; not needed if only one was heard of.
    :raises AssertionError: it did not; or there are several sessions, or none.
    """
    transitions = heard.transitions if isinstance(heard, RecordingHooks) else list(heard)
    ids = list(dict.fromkeys(transition.after.id for transition in transitions))
    if session_id is None:
        if len(ids) != 1:
            raise AssertionError(f"say session_id: there are transitions of {', '.join(ids) or 'no session'}")
        session_id = ids[0]
    own = [transition for transition in transitions if transition.after.id == session_id]
    _check_order(own)
    seen = [transition for transition in own if _changes_the_state(transition)]
    if [str(transition.after.state) for transition in seen] != list(map(str, states)):
        raise AssertionError(
            f"session {session_id}\n  was to go {' → '.join(states) or 'nowhere'}\n"
            f"  and went  {' → '.join(map(_shown, seen)) or 'nowhere'}"
        )


def _changes_the_state(transition: Transition) -> bool:
    return transition.before is None or transition.before.state is not transition.after.state


def _check_order(transitions: Sequence[Transition]) -> None:
    versions = [transition.after.version for transition in transitions]
    if versions != sorted(set(versions)):
        raise AssertionError(f"transitions were told twice, or out of order: versions {versions}")


def _shown(transition: Transition) -> str:
    session = transition.after
    why = f" ({session.cause}: {session.reason})" if session.cause and session.state == "TERMINATING" else ""
    return f"{session.state}{why}"
