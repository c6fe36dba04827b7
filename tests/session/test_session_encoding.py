"""Sessions as bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaykit.session import Activity, Cause, Session, SessionState, decode_session, encode_session
from relaykit.testing.store_contract import make_session

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_MOMENTS = st.datetimes(timezones=st.just(UTC))
_SESSIONS = st.builds(
    Session,
    **dict.fromkeys(["id", "agent_id", "agent", "owner", "project", "node"], st.text()),
    created_at=_MOMENTS,
    activity=st.builds(Activity, _MOMENTS, st.integers(min_value=0)),
    state=st.sampled_from(SessionState),
    version=st.integers(min_value=1),
    worktree_dir=st.none() | st.text(),
    cause=st.none() | st.sampled_from(Cause),
    reason=st.none() | st.text(),
    ended_at=st.none() | _MOMENTS,
    resources=st.dictionaries(st.text(), st.dictionaries(st.text(), _JSON)),
)


@given(session=_SESSIONS)
def test_nothing_is_lost(session: Session) -> None:
    data = encode_session(session)
    assert decode_session(data) == session
    assert decode_session(data.decode()) == session


def test_activity_may_be_kept_apart() -> None:
    latest = Activity(datetime(2031, 1, 1, tzinfo=UTC), 99)
    assert decode_session(encode_session(make_session()), activity=latest) == make_session(activity=latest)


@pytest.mark.parametrize(
    "changes", [{"surprise": 1}, {"state": "ASLEEP"}, {"activity": []}, {"created_at": "yesterday"}]
)
def test_what_is_no_session_of_ours_is_refused(changes: dict[str, Any]) -> None:
    facts = json.loads(encode_session(make_session())) | changes
    with pytest.raises(ValueError):  # noqa: PT011 -- of each kind
        decode_session(json.dumps(facts))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff"])
def test_what_is_no_session_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- of each kind
        decode_session(data)


def test_what_is_no_json_cannot_be_kept() -> None:
    with pytest.raises(TypeError, match="is not JSON"):
        encode_session(make_session(resources={"acp": {"pid": object()}}))
