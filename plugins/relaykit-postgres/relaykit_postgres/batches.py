"""Batches of entries, written in one statement for many sessions, each under its own condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from relaykit.conversation import Entry
from relaykit_postgres.connection import Connection, compiled
from relaykit_postgres.rows import bytes_of, entry_of
from relaykit_postgres.values import storable

BUSY = "its journal is locked by somebody else"
"""No refusal: it is to be tried alone, and to wait."""


class Batch(NamedTuple):
    """What one session appends. A tuple, because one is made for every append."""

    session_id: str
    epoch: str
    entries: tuple[Entry, ...]

    @property
    def first(self) -> int:
        """The seq at which it begins; 0 if it is empty."""
        return self.entries[0].seq if self.entries else 0

    @property
    def size(self) -> int:
        """The bytes in it, about."""
        return sum(len(entry.frame.body) + 100 for entry in self.entries)

    def is_whole(self) -> bool:
        """Tell whether it is entries without a hole."""
        return all(entry.seq == seq for seq, entry in enumerate(self.entries, self.first))


class Writer:
    """Writes batches, in a worker thread.

    The condition (epoch, head, not closed) is looked at where the journal's row is locked, in the statement that
    moves its head: of two nodes that write one journal, one is fenced off.
    """

    def __init__(self, *, schema: str) -> None:
        self._append = compiled(_APPEND.replace("{wait}", "SKIP LOCKED"), schema)
        self._append_waiting = compiled(_APPEND.replace("{wait}", ""), schema)
        self._look = compiled(_LOOK, schema)

    def write(self, connection: Connection, *, batches: Sequence[Batch], wait: bool) -> Sequence[str]:
        """Write what may be written, and return for each batch why it was refused: nothing if it is there.

        :param wait: for whoever holds a journal locked; otherwise its batch is BUSY.
        """
        statement = self._append_waiting if wait else self._append
        fit = [
            batch for batch in batches if batch.entries and storable(batch.session_id) and batch.is_whole()
        ]
        while True:
            written = self._write(connection, statement, fit) if fit else set()
            refusals = [
                "" if batch.session_id in written else self._look_at(connection, batch) for batch in batches
            ]
            # Who held it locked may have left it as it was, also between the two statements.
            if not wait or BUSY not in refusals:
                return refusals

    @staticmethod
    def _write(connection: Connection, statement: bytes, batches: Sequence[Batch]) -> set[str]:
        said = [(number, entry) for number, batch in enumerate(batches, 1) for entry in batch.entries]
        frames = [entry.frame for _, entry in said]
        parameters: list[Any] = [
            [batch.session_id for batch in batches],
            [batch.epoch for batch in batches],
            [batch.first - 1 for batch in batches],
            [len(batch.entries) for batch in batches],
            [number for number, _ in said],
            [entry.seq for _, entry in said],
            [entry.at for _, entry in said],
            [frame.kind.value for frame in frames],
            [bytes_of(frame.ref) for frame in frames],
            [bytes_of(frame.method) for frame in frames],
            [frame.failed for frame in frames],
            [frame.body for frame in frames],
        ]
        return {row[0] for row in connection.execute(statement, parameters)}

    def _look_at(self, connection: Connection, batch: Batch) -> str:
        """Return why a batch was refused; nothing if it is there already; or BUSY if nothing speaks against it."""
        if not batch.is_whole():
            return "the entries leave a hole"
        rows: list[tuple[Any, ...]] = []
        if storable(batch.session_id):
            bounds = [batch.first, batch.first + len(batch.entries) - 1, batch.session_id]
            rows = connection.execute(self._look, bounds, binary=True).fetchall()
        if not rows:
            return "it was never opened, or was deleted"
        epoch, head, ended = rows[0][:3]
        refusal = ""
        if epoch != batch.epoch:
            refusal = f"it is of epoch {epoch}, the entries of {batch.epoch}"
        elif ended:
            refusal = "it is closed"
        elif batch.entries and batch.first == head + 1:
            refusal = BUSY
        elif batch.entries and not _is_tail(batch, head, rows):
            refusal = f"its head is {head}, the entries begin at {batch.first}"
        return refusal


def _is_tail(batch: Batch, head: int, rows: Sequence[tuple[Any, ...]]) -> bool:
    """Tell whether the journal ends with just these entries: it is the same batch again, its answer was lost."""
    held = [entry_of(row[3:]) for row in rows if row[3] is not None]
    return batch.entries[-1].seq == head and held == list(batch.entries)


_APPEND = """
    WITH asked AS (
        SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[]) WITH ORDINALITY
            AS asked (session_id, epoch, head, count, batch)
    ), free AS (
        SELECT journal.number, asked.head, asked.count, asked.batch, asked.session_id
        FROM {schema}.journals AS journal JOIN asked ON journal.session_id = asked.session_id
        WHERE journal.epoch = asked.epoch AND journal.head = asked.head AND journal.ended_at IS NULL
        FOR NO KEY UPDATE OF journal {wait}
    ), moved AS (
        UPDATE {schema}.journals AS journal SET head = free.head + free.count
        FROM free WHERE journal.number = free.number AND journal.head = free.head
        RETURNING journal.number, free.batch, free.session_id
    ), written AS (
        INSERT INTO {schema}.entries (journal, seq, at, kind, ref, method, failed, body)
        SELECT moved.number, said.seq, said.at, said.kind, said.ref, said.method, said.failed, said.body
        FROM unnest(%b::bigint[], %b::bigint[], %b::timestamptz[], %b::text[], %b::bytea[], %b::bytea[],
            %b::boolean[], %b::bytea[]) AS said (batch, seq, at, kind, ref, method, failed, body)
        JOIN moved ON moved.batch = said.batch
    )
    SELECT session_id FROM moved
"""

_LOOK = """
    SELECT journal.epoch, journal.head, journal.ended_at IS NOT NULL,
        entry.seq, entry.at, entry.kind, entry.ref, entry.method, entry.failed, entry.body
    FROM {schema}.journals AS journal LEFT JOIN {schema}.entries AS entry
        ON entry.journal = journal.number AND entry.seq BETWEEN %s AND %s AND entry.seq > journal.trimmed
    WHERE journal.session_id = %s ORDER BY entry.seq
"""
