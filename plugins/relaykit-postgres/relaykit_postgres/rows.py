"""Entries as rows, and back."""

from __future__ import annotations

from typing import Any

from relaykit.conversation import Entry, Frame, Kind
from relaykit.errors import JournalError
from relaykit_postgres import NAME

_KINDS = {kind.value: kind for kind in Kind}


def entry_of(row: tuple[Any, ...]) -> Entry:
    """Return the entry of a row: seq, at, kind, ref, method, failed, body.

    :raises JournalError: it is of a kind that only a newer relaykit knows.
    """
    seq, at, kind, ref, method, failed, body = row
    known = _KINDS.get(kind)
    if known is None:
        raise JournalError(f"an entry is of the kind {kind!r}: a newer relaykit wrote it", plugin=NAME)
    return Entry(seq, at, Frame(known, body, text_of(ref), text_of(method), failed))


def bytes_of(text: str) -> bytes:
    """Return any text of an agent's as bytes: JSON may hold a NUL, and half a surrogate pair."""
    return text.encode("utf-8", "surrogatepass")


def text_of(data: bytes) -> str:
    """Return what `bytes_of` was given."""
    return data.decode("utf-8", "surrogatepass")
