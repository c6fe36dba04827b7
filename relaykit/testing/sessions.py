"""Sessions for tests: as a store would hand them out, without a Manager."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from relaykit.session import Activity, Session

CREATED_AT = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


def make_session(session_id: str = "s1", **changes: Any) -> Session:
    """Return a session at version 1, in a role of its own unless `changes` say which."""
    facts: dict[str, Any] = {
        "agent_id": f"role-{session_id}",
        "agent": "echo",
        "owner": "local",
        "project": "shop",
        "node": "n1",
        "created_at": CREATED_AT,
        "activity": Activity(CREATED_AT),
    }
    return Session(id=session_id, **facts | changes)


def next_version(session: Session, **changes: Any) -> Session:
    """Return the session one version on."""
    return replace(session, version=session.version + 1, **changes)
