"""Python's values as SQLite's columns: moments as integers, and text that is not quite Unicode."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds since 1970, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def moment(at: int) -> datetime:
    """Return the moment, in UTC, that `microseconds` was given."""
    return EPOCH + timedelta(microseconds=at)


def storable(text: str) -> str | bytes:
    """Return what a text column takes in place of `text`: the same, or bytes if it has lone surrogates.

    SQLite's text is UTF-8, which has none; Python's has them for what was no UTF-8 to begin with.
    """
    if text.isascii():
        return text
    encoded = text.encode("utf-8", "surrogatepass")
    try:
        encoded.decode()
    except UnicodeDecodeError:
        return encoded
    return text


def restored(stored: str | bytes) -> str:
    """Return the text that `storable` was given."""
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogatepass")
