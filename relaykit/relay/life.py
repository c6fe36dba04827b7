"""Life: since when a session lives. One that was revived lives anew."""

from __future__ import annotations

from datetime import datetime

from relaykit.session.model import Session

_KEY = "relay.life"
"""In ``session.resources``; no plugin can have this name."""


def begun_anew(ended: Session, *, at: datetime) -> Session:
    """Return a session that has ended as it is to be revived."""
    life = {"since": at.isoformat()}
    return ended.evolve(resources={**ended.resources, _KEY: life})


def alive_since(session: Session) -> datetime:
    """Return when the session's life began: it was created, or revived."""
    since = session.resources.get(_KEY, {}).get("since")
    return session.created_at if since is None else datetime.fromisoformat(since)
