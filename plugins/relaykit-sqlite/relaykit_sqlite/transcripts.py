"""Transcripts: the tables of journals and of what was said. Used in the database's thread, within its transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from relaykit.conversation import Entry, JournalState
from relaykit.errors import JournalConflict, JournalError
from relaykit.ids import IdGenerator
from relaykit.session import Session, SessionFilter, decode_session
from relaykit_sqlite.problems import NAME
from relaykit_sqlite.runs import COLUMNS, WIDTH, entries_of, without
from relaykit_sqlite.schema import MAX_SEQ, SEQ_BITS
from relaykit_sqlite.sessions import conditions_of
from relaykit_sqlite.values import microseconds, storable

ONE_STATEMENT = 8
"""As many rows are written by one statement."""

_ROW = f"({', '.join('?' * WIDTH)})"
# OR ROLLBACK: a statement that may undo itself alone keeps a copy of each page that it changes, which took longer
# than all the rest. This one never fails but for what fails the transaction with it.
_INSERT = f"INSERT OR ROLLBACK INTO entries ({COLUMNS}) VALUES "  # noqa: S608 -- names of our own
_INSERTS = {
    rows: _INSERT + ", ".join([_ROW] * rows) for rows in (128, 64, 32, 16, *range(ONE_STATEMENT, 0, -1))
}
_SELECT = f"SELECT {COLUMNS} FROM entries WHERE id > ? AND id <= ? ORDER BY id"  # noqa: S608 -- names of our own
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
        self._unwritten: list[Any] = []  # the columns of one row after the other's

    def flush(self) -> None:
        """Write what was collected."""
        values = self._unwritten
        if not values:
            return
        start = 0
        for rows, insert in _INSERTS.items():
            size = rows * WIDTH
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

    def append(self, session_id: str, epoch: str, entries: Sequence[Entry], rows: list[Any]) -> None:
        """Record entries, all or none.

        :param rows: the same, as `rows_of` returned them.
        """
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
        unwritten, base = self._unwritten, transcript.number << SEQ_BITS
        start = len(unwritten)
        unwritten += rows
        for at in range(start, len(unwritten), WIDTH):
            unwritten[at] += base
        transcript.head = head + len(entries)

    def read(
        self, session_id: str, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries behind `after`, and up to `max_bytes` of them."""
        transcript = self._find(session_id)
        if transcript is None:
            return ()
        try:
            return self._read(transcript, after=after, limit=limit, max_bytes=max_bytes)
        except KeyError as error:
            raise JournalError(
                f"the transcript of session {session_id!r} has an entry of the unknown kind {error}: "
                "it is of a newer relaykit",
                plugin=NAME,
            ) from error

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
        self._cut(transcript, through=through)
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
        return self._read(transcript, after=first - 1, limit=len(entries) + 1) == list(entries)

    def _read(
        self, transcript: _Transcript, *, after: int, limit: int, max_bytes: int | None = None
    ) -> list[Entry]:
        self.flush()
        base, after = transcript.base, min(max(after, 0), MAX_SEQ)
        rows = self._execute(_SELECT, (base + after, base + MAX_SEQ))
        try:
            return entries_of(rows, base, after=after, limit=limit, max_bytes=max_bytes)
        finally:
            rows.close()  # there may be more

    def _cut(self, transcript: _Transcript, *, through: int) -> None:
        """Forget what the run that begins before `through`, and ends behind it, has of what is trimmed."""
        base = transcript.base
        run = self._execute(
            "SELECT id, body, sizes FROM entries WHERE id > ? AND id <= ? ORDER BY id LIMIT 1",
            (base + through, base + MAX_SEQ),
        ).fetchone()
        if run is None or run[2] is None:
            return
        key, body, sizes = run
        self._execute(
            "UPDATE entries SET body = ?, sizes = ? WHERE id = ?",
            (*without(through, key - base, body, sizes), key),
        )


def _conflict(session_id: str, detail: str) -> JournalConflict:
    return JournalConflict(session_id, detail, plugin=NAME)


def _session(body: bytes) -> Session:
    try:
        return decode_session(body)
    except ValueError as error:
        raise JournalError(f"a session that ended cannot be read: {error}", plugin=NAME) from error
