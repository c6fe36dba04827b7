"""Sessions as bytes, for stores and journals that keep them outside of this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from relaykit.session.model import Activity, Cause, Session, SessionState

_FIELDS = frozenset(field.name for field in fields(Session))


def encode_session(session: Session) -> bytes:
    """Return the whole session as one JSON object, in UTF-8."""
    facts = {name: getattr(session, name) for name in _FIELDS}
    facts["activity"] = [session.activity.last_active, session.activity.message_count]
    return json.dumps(facts, default=_plain, sort_keys=True, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def decode_session(data: bytes | str, *, activity: Activity | None = None) -> Session:
    """Return the session that `encode_session` was given.

    :param activity: instead of the one within, for a store that keeps it apart.
    :raises ValueError: it is something else, or of a newer relaykit.
    """
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogatepass")
    facts = json.loads(text)
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


def _plain(value: Any) -> Any:
    """Return what JSON has instead: of what is frozen, and of moments."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} is not JSON")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
