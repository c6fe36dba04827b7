"""Runs: consecutive entries that differ in their bodies alone, which are one row.

An agent that streams says hundreds of updates at a time, of one method and one moment. As one row they are written,
and read, in a fraction of the time, and of the space.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from relaykit.conversation import Entry, Frame, Kind
from relaykit_sqlite.values import microseconds, moment, restored, storable

RUN_BYTES = 128 << 10
"""So much of bodies is one row at most, or one body: who reads a page takes no more from the file than this in vain."""

COLUMNS = "id, at, kind, body, ref, method, failed, sizes"
WIDTH = 8

_KINDS = {kind.value: kind for kind in Kind}


def rows_of(entries: Sequence[Entry]) -> list[Any]:
    """Return the columns of one run after the other's, with the newest `seq` of each in the place of its id."""
    rows: list[Any] = []
    bodies: list[bytes] = []
    size = last = 0
    shared: tuple[Any, ...] = ()
    for seq, at, (kind, body, ref, method, failed) in entries:
        if bodies:
            size += len(body)
            if shared == (at, kind, ref, method, failed) and size <= RUN_BYTES:
                bodies.append(body)
                last = seq
                continue
            rows += _row(last, shared, bodies)
        shared = at, kind, ref, method, failed
        bodies = [body]
        size, last = len(body), seq
    if bodies:
        rows += _row(last, shared, bodies)
    return rows


def _row(last: int, shared: tuple[Any, ...], bodies: list[bytes]) -> Sequence[Any]:
    at, kind, ref, method, failed = shared
    body, sizes = _joined(bodies)
    return (
        last,
        microseconds(at),
        kind._value_,  # what `value` returns, in a tenth of its time
        body,
        ref if ref.isascii() else storable(ref),
        method if method.isascii() else storable(method),
        int(failed),
        sizes,
    )


def entries_of(
    rows: Iterable[Sequence[Any]], base: int, *, after: int, limit: int, max_bytes: int | None = None
) -> list[Entry]:
    """Return up to `limit` entries with seq > `after`; no more rows are taken than that needs.

    :param base: what ids begin at.
    :param max_bytes: bodies together, but for the first.
    :raises KeyError: one is of a kind that this version does not know.
    """
    entries: list[Entry] = []
    if limit <= 0:
        return entries
    known_at, known_moment = None, None
    room = math.inf if max_bytes is None else max_bytes
    for key, at, name, body, ref, method, failed, sizes in rows:
        if at != known_at:  # what was recorded together shares it
            known_at, known_moment = at, moment(at)
        if type(ref) is bytes or type(method) is bytes:
            ref, method = restored(ref), restored(method)  # noqa: PLW2901 -- the same, as text
        kind, has_failed = _KINDS[name], failed == 1
        for seq, each in _bodies(key - base, body, sizes):
            if seq > after:
                room -= len(each)
                if room < 0 and entries:
                    return entries
                entries.append(Entry(seq, known_moment, Frame(kind, each, ref, method, has_failed)))  # type: ignore[arg-type] # set by the first
                if len(entries) == limit:
                    return entries
    return entries


def without(through: int, last: int, body: bytes, sizes: bytes) -> tuple[bytes, bytes | None]:
    """Return body and sizes of a run without its entries up to `through`; `last` is its newest."""
    return _joined([each for seq, each in _bodies(last, body, sizes) if seq > through])


def _joined(bodies: list[bytes]) -> tuple[bytes, bytes | None]:
    """Return the bodies as one, and what tells them apart, if that is needed."""
    if len(bodies) == 1:
        return bodies[0], None
    return b"".join(bodies), struct.pack(f"<{len(bodies)}I", *map(len, bodies))


def _bodies(last: int, body: bytes, sizes: bytes | None) -> Iterator[tuple[int, bytes]]:
    """Return the entries of a row, as seq and body."""
    if sizes is None:
        yield last, body
        return
    lengths = struct.unpack(f"<{len(sizes) // 4}I", sizes)
    start = 0
    for seq, length in enumerate(lengths, last - len(lengths) + 1):
        end = start + length
        yield seq, body[start:end]
        start = end
