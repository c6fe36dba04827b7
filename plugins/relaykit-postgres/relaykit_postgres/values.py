"""What PostgreSQL's text can hold, and the conditions that a filter means."""

from __future__ import annotations

from typing import Any

from relaykit.session import SessionFilter

_FIELDS = ("state", "agent_id", "owner", "project", "node")


def storable(*texts: str) -> bool:
    """Tell whether PostgreSQL's text can hold all of these: what it cannot hold is not there either."""
    return all("\0" not in text and (text.isascii() or _is_utf8(text)) for text in texts)


def conditions(where: SessionFilter) -> tuple[list[bytes], list[Any] | None]:
    """Return a filter as SQL conditions, and their values; None instead of these if nothing can match."""
    asked = {field: value for field in _FIELDS if (value := getattr(where, field)) is not None}
    values = [str(value) for value in asked.values()]
    clauses = [f"{field} = %s".encode() for field in asked]
    return clauses, values if storable(*values) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold
        return False
    return True
