"""Transcripts: the tables of journals and of what was said. Used in the database's thread, within its transaction."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from relaykit.conversation import Entry, Frame, JournalState, Kind
from relaykit.errors import JournalConflict, JournalError
from relaykit.ids import IdGenerator
from relaykit.session import Session, SessionFilter, decode_session
from relaykit_sqlite.problems import NAME
from relaykit_sqlite.schema import MAX_SEQ, SEQ_BITS
from relaykit_sqlite.sessions import conditions_of
from relaykit_sqlite.values import microseconds, moment, restored, storable

ONE_STATEMENT = 8
"""As many entries are written by one statement."""

_COLUMNS = 7
_ROW = f"({', '.join('?' * _COLUMNS)})"
# OR ROLLBACK: a statement that may undo itself alone keeps a copy of each page that it changes, which took longer
# than all the rest. This one never fails but for what fails the transaction with it.
_INSERT = "INSERT OR ROLLBACK INTO entries (id, at, kind, body, ref, method, failed) VALUES "
_INSERTS = {
    rows: _INSERT + ", ".join([_ROW] * rows) for rows in (128, 64, 32, 16, *range(ONE_STATEMENT, 0, -1))
}
_SELECT = (
    "SELECT id, at, kind, body, ref, method, failed FROM entries WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
)
_KINDS = {kind.value: kind for kind in Kind}
_OPEN = """
UPDATE journals SET ended_at = NULL, state = NULL, agent_id = NULL, owner = NULL, project = NULL, node = NULL,
ended = NULL WHERE number = ?
"""
_CLOSE = """
UPDATE journals SET ended_at = ?, state = ?, agent_id = ?, owner = ?, project = ?, node = ?, ended = ?
WHERE session_id = ?
"""


@dataclass(slots=True)
class _Transcript:
    number: int
    epoch: str
    trimmed: int
    head: int
    closed: bool

    @property
    def base(self) -> int:
        return self.number << SEQ_BITS


class Transcripts:
    """What a `Journal` does.

    Where open journals stand is known by heart (nobody else writes to the file), so that an append reads nothing;
    and entries are collected until the transaction ends or somebody reads, so that all appends of a group are a
    few statements: each that is executed gives the interpreter's lock away and waits to get it back.
    """

    def __init__(self, connection: sqlite3.Connection, ids: IdGenerator) -> None:
        self._execute = connection.execute
        self._ids = ids
        self._open: dict[str, _Transcript] = {}
        self._unwritten: list[Any] = []  # the columns of one entry after the other's

    def flush(self) -> None:
        """Write what was collected."""
        values = self._unwritten
        if not values:
            return
        start = 0
        for rows, insert in _INSERTS.items():
            size = rows * _COLUMNS
            while len(values) - start >= size:
                self._execute(insert, values[start : start + size])
                start += size
        values.clear()

    def forget(self) -> None:
        """Forget what was collected, and what is known by heart: the transaction was rolled back."""
        self._unwritten.clear()
        self._open.clear()

    def open(self, session: Session) -> JournalState:
        """Begin a journal, or find it again."""
        transcript = self._find(session.id)
        if transcript is None:
            epoch = self._ids.new_id()
            cursor = self._execute(
                "INSERT INTO journals (session_id, epoch) VALUES (?, ?)", (storable(session.id), epoch)
            )
            assert cursor.lastrowid is not None  # noqa: S101 -- it was an INSERT
            transcript = _Transcript(cursor.lastrowid, epoch, trimmed=0, head=0, closed=False)
        elif transcript.closed:
            self._execute(_OPEN, (transcript.number,))
            transcript.closed = False
        self._open[session.id] = transcript
        return JournalState(transcript.epoch, transcript.trimmed + 1, transcript.head)

    def append(self, session_id: str, epoch: str, entries: Sequence[Entry]) -> None:
        """Record entries, all or none."""
        transcript = self._open.get(session_id)
        if transcript is None:
            transcript = self._find(session_id)
        if transcript is None:
            raise _conflict(session_id, "it was never opened, or was deleted")
        if transcript.epoch != epoch:
            raise _conflict(session_id, f"it is of epoch {transcript.epoch}, the entries of {epoch}")
        if transcript.closed:
            raise _conflict(session_id, "it is closed")
        if not entries:
            return
        head, first = transcript.head, entries[0].seq
        if first != head + 1:
            if not self._holds(transcript, entries):
                raise _conflict(session_id, f"its head is {head}, the entries begin at {first}")
            return
        if entries[-1].seq != head + len(entries):
            raise _conflict(session_id, "the entries leave a hole")
        self._unwritten += _flat(entries, transcript.number << SEQ_BITS)
        transcript.head = head + len(entries)

    def read(
        self, session_id: str, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries behind `after`, and up to `max_bytes` of them."""
        transcript = self._find(session_id)
        if transcript is None:
            return ()
        kinds, base = _KINDS, transcript.base
        known_at, known_moment = None, None
        entries: list[Entry] = []
        room = math.inf if max_bytes is None else max_bytes
        rows = self._select(transcript, after=after, limit=limit)
        try:
            for key, at, kind, body, ref, method, failed in rows:
                room -= len(body)
                if room < 0 and entries:
                    break
                if at != known_at:  # entries that were recorded together share it
                    known_at, known_moment = at, moment(at)
                if type(ref) is bytes or type(method) is bytes:
                    ref, method = restored(ref), restored(method)  # noqa: PLW2901 -- the same, as text
                frame = Frame(kinds[kind], body, ref, method, failed == 1)
                entries.append(Entry(key - base, known_moment, frame))  # type: ignore[arg-type] # set by the first
        except KeyError as error:
            raise JournalError(
                f"the transcript of session {session_id!r} has an entry of the unknown kind {error}: "
                "it is of a newer relaykit",
                plugin=NAME,
            ) from error
        finally:
            rows.close()  # else the statement goes on reading
        return entries

    def close(self, session: Session, body: bytes) -> None:
        """Keep a session as it ended, which is `body` when encoded."""
        self._open.pop(session.id, None)
        values = (
            microseconds(session.ended_at or session.activity.last_active),
            session.state.value,
            storable(session.agent_id),
            storable(session.owner),
            storable(session.project),
            storable(session.node),
            body,
            storable(session.id),
        )
        self._execute(_CLOSE, values)

    def find(self, session_id: str) -> Session | None:
        """Return a session as it ended, or None."""
        row = self._execute(
            "SELECT ended FROM journals WHERE session_id = ? AND ended_at IS NOT NULL",
            (storable(session_id),),
        ).fetchone()
        return None if row is None else _session(row[0])

    def ended(self, where: SessionFilter, *, before: datetime, skip: int, limit: int) -> Sequence[Session]:
        """Return sessions that ended before a moment, the latest first."""
        conditions, values = conditions_of(where)
        rows = self._execute(
            f"SELECT ended FROM journals WHERE ended_at < ? AND {conditions} "  # noqa: S608 -- names of our own
            "ORDER BY ended_at DESC, session_id LIMIT ? OFFSET ?",
            (microseconds(before), *values, max(limit, 0), max(skip, 0)),
        )
        return [_session(body) for (body,) in rows.fetchall()]

    def trim(self, session_id: str, *, through: int) -> None:
        """Forget the entries up to and including `through`."""
        self.flush()
        transcript = self._find(session_id)
        if transcript is None or through <= transcript.trimmed:
            return
        through = min(through, transcript.head)
        self._execute(
            "DELETE FROM entries WHERE id > ? AND id <= ?",
            (transcript.base + transcript.trimmed, transcript.base + through),
        )
        self._execute("UPDATE journals SET trimmed = ? WHERE number = ?", (through, transcript.number))
        transcript.trimmed = through

    def delete(self, session_id: str) -> None:
        """Forget a whole transcript."""
        self.flush()
        transcript = self._find(session_id)
        if transcript is None:
            return
        self._open.pop(session_id, None)
        self._execute(
            "DELETE FROM entries WHERE id > ? AND id <= ?", (transcript.base, transcript.base + MAX_SEQ)
        )
        self._execute("DELETE FROM journals WHERE number = ?", (transcript.number,))

    def _find(self, session_id: str) -> _Transcript | None:
        transcript = self._open.get(session_id)
        if transcript is not None:
            return transcript
        self.flush()  # it may have been closed in this very transaction
        row = self._execute(
            "SELECT number, epoch, trimmed, ended_at IS NOT NULL FROM journals WHERE session_id = ?",
            (storable(session_id),),
        ).fetchone()
        if row is None:
            return None
        number, epoch, trimmed, closed = row
        transcript = _Transcript(number, epoch, trimmed, head=trimmed, closed=closed == 1)
        newest = self._execute(
            "SELECT id FROM entries WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT 1",
            (transcript.base, transcript.base + MAX_SEQ),
        ).fetchone()
        if newest is not None:
            transcript.head = newest[0] - transcript.base
        if not transcript.closed:  # those that have ended are many, and nobody appends to them
            self._open[session_id] = transcript
        return transcript

    def _holds(self, transcript: _Transcript, entries: Sequence[Entry]) -> bool:
        """Tell whether the newest entries are exactly these: an append whose answer was lost."""
        first = entries[0].seq
        if not transcript.trimmed < first <= transcript.head:
            return False
        held = self._select(transcript, after=first - 1, limit=len(entries) + 1).fetchall()
        return [value for row in held for value in row] == _flat(entries, transcript.base)

    def _select(self, transcript: _Transcript, *, after: int, limit: int) -> sqlite3.Cursor:
        self.flush()
        start = transcript.base + min(max(after, 0), MAX_SEQ)
        return self._execute(_SELECT, (start, transcript.base + MAX_SEQ, min(max(limit, 0), MAX_SEQ)))


def _flat(entries: Sequence[Entry], base: int) -> list[Any]:
    """Return the columns of one entry after the other's."""
    values: list[Any] = []
    known, known_at = None, 0
    for seq, at, (kind, body, ref, method, failed) in entries:
        if at is not known:  # entries that were said together share it
            known, known_at = at, microseconds(at)
        values += (
            base + seq,
            known_at,
            kind._value_,  # what `value` returns, in a tenth of its time
            body,
            ref if ref.isascii() else storable(ref),
            method if method.isascii() else storable(method),
            int(failed),
        )
    return values


def _conflict(session_id: str, detail: str) -> JournalConflict:
    return JournalConflict(session_id, detail, plugin=NAME)


def _session(body: bytes) -> Session:
    try:
        return decode_session(body)
    except ValueError as error:
        raise JournalError(f"a session that ended cannot be read: {error}", plugin=NAME) from error
