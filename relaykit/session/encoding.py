"""Sessions as bytes, for stores and journals that keep them outside of this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any

from relaykit.session.model import Activity, Cause, Session, SessionState

_NAMES = tuple(field.name for field in fields(Session))
_FIELDS = frozenset(_NAMES)
_values_of = attrgetter(*_NAMES)


def encode_session(session: Session) -> bytes:
    """Return the whole session as one JSON object, in ASCII."""
    facts = dict(zip(_NAMES, _values_of(session), strict=True))
    activity, ended_at = session.activity, session.ended_at
    facts["activity"] = (activity.last_active.isoformat(), activity.message_count)
    facts["created_at"] = session.created_at.isoformat()
    facts["ended_at"] = None if ended_at is None else ended_at.isoformat()
    return _encode(facts).encode()


def decode_session(data: bytes | str, *, activity: Activity | None = None) -> Session:
    """Return the session that `encode_session` was given.

    :param activity: instead of the one within, for a store that keeps it apart.
    :raises ValueError: it is something else, or of a newer relaykit.
    """
    facts = json.loads(data)
    if not isinstance(facts, dict) or not facts.keys() <= _FIELDS:
        raise ValueError("that is no session of this version of relaykit")
    try:
        last_active, message_count = facts["activity"]
        facts["activity"] = activity or Activity(_moment(last_active), message_count)
        facts["created_at"] = _moment(facts["created_at"])
        facts["state"] = SessionState(facts["state"])
        facts["cause"] = None if facts["cause"] is None else Cause(facts["cause"])
        facts["ended_at"] = None if facts["ended_at"] is None else _moment(facts["ended_at"])
        return Session(**facts)
    except (KeyError, TypeError) as error:
        raise ValueError(f"that is no session: {error!r}") from error


def _thawed(value: Any) -> Any:
    """Return what JSON has instead of a mapping that is frozen."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is not JSON")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


_encode = json.JSONEncoder(default=_thawed, separators=(",", ":"), check_circular=False).encode
