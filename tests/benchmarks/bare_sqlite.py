"""SQLite's bare driver: the same rows as relaykit-sqlite writes, in the same tables with the same settings."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from relaykit.conversation import Entry
from relaykit.session import Session, encode_session
from relaykit_sqlite import schema


def appends(scratch: Path, batches: Sequence[Sequence[Entry]], *, sessions: int) -> float:
    """Return how many entries a second are written: a batch of each session in a commit."""
    commits = [
        [
            (number << schema.SEQ_BITS | entry.seq, 0, "UPDATE", entry.frame.body, "", "session/update", 0)
            for number in range(1, sessions + 1)
            for entry in batch
        ]
        for batch in batches
    ]
    columns = "id, at, kind, body, ref, method, failed"
    return _rate(scratch, f"INSERT INTO entries ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", commits)


def saves(scratch: Path, versions: Sequence[Sequence[Session]]) -> float:
    """Return how many sessions a second are saved: one version of each in a commit. They are encoded beforehand."""
    rows = [
        [
            (each.state.value, each.version, 0, 0, encode_session(each), each.id, each.version - 1)
            for each in one
        ]
        for one in versions
    ]
    with closing(_open(scratch)) as connection:
        connection.executemany(
            "INSERT INTO sessions VALUES (?6, ?6, '', '', '', ?1, ?2, ?3, ?4, ?5)",
            [each[0][:6] for each in rows],
        )
    update = "UPDATE sessions SET state = ?, version = ?, last_active = ?, message_count = ?, body = ?"
    commits = [[each[at] for each in rows] for at in range(1, len(rows[0]))]
    return _rate(scratch, f"{update} WHERE id = ? AND version = ?", commits)


def _open(scratch: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(scratch / "bare.db", isolation_level=None)
    for pragma in (
        f"page_size = {schema.PAGE_SIZE}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "wal_autocheckpoint = 8000",
        "cache_size = -16384",
    ):
        connection.execute(f"PRAGMA {pragma}")
    schema.migrate(connection, schema.MIGRATIONS)
    return connection


def _rate(scratch: Path, statement: str, commits: Sequence[Sequence[tuple[object, ...]]]) -> float:
    with closing(_open(scratch)) as connection:
        started = time.perf_counter()
        for rows in commits:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, rows)
            connection.execute("COMMIT")
        seconds = time.perf_counter() - started
    return sum(map(len, commits)) / seconds
