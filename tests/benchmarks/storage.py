"""(g) Storages: entries and transitions a second, an append alone, reading, and listing by state.

Beside SQLite's bare driver: the same rows, in the same tables with the same settings, by one thread without an event
loop; the writes of all sessions share a commit, as they do in the plugin when nobody is late.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, closing, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from figures import Figure
from relaykit.conversation import Entry, Frame, Journal, Kind, MemoryJournal
from relaykit.session import MemoryStore, Session, SessionFilter, SessionState, Store, encode_session
from relaykit.testing.store_contract import make_session, next_version
from relaykit_sqlite import schema
from relaykit_sqlite.storage import open_sqlite

SESSIONS = 50
APPENDS = 200  # for each session, in each round
ROUNDS = 7
LONE = 1000
STORED = 100_000
MATCHING = 10
PAGE = 1000

RATIO_AIM = 0.7
LONE_AIM_MS = 1.0
READ_AIM = 50_000
LIST_AIM_MS = 2.0

BODY = (
    b'{"update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"'
    + b"word " * 20
    + b'"}}}'
)
AT = datetime(2030, 1, 1, 12, tzinfo=UTC)

Opened = tuple[Store, Journal]
Open = Callable[[Path], AbstractAsyncContextManager[Opened]]

# Another storage is another row: a context manager that opens it in a scratch directory.
STORAGES: Mapping[str, Open] = {
    "memory": lambda _: nullcontext((MemoryStore(), MemoryJournal())),
    "sqlite": lambda scratch: open_sqlite(scratch / "relay.db"),
}


def measure_storage(*, scale: float) -> Sequence[Figure]:
    figures: list[Figure] = []
    for backend in ("asyncio", "trio"):
        figures += anyio.run(partial(_measure, backend, scale=scale), backend=backend)
    return figures


async def _measure(backend: str, *, scale: float) -> Sequence[Figure]:
    rounds = max(1, round(ROUNDS * scale))
    figures: list[Figure] = []
    for each in (1, 8):
        figures += await _compared(
            f"entries, {SESSIONS} sessions at once, {each} an append ({{}}, {backend})",
            partial(_appends, each=each),
            partial(_bare_appends, each=each),
            rounds=rounds,
            aim=RATIO_AIM,
        )
    figures += await _compared(
        f"transitions, {SESSIONS} sessions at once ({{}}, {backend})", _saves, _bare_saves, rounds=rounds
    )
    for name, open_storage in STORAGES.items():
        with TemporaryDirectory(prefix="relaykit-benchmark-") as scratch:
            async with open_storage(Path(scratch)) as (store, journal):
                what = f"({name}, {backend})"
                figures += await _alone(what, journal, scale=scale)
                figures.append(await _listing(what, store, scale=scale))
    return figures


async def _compared(
    title: str,
    measured: Callable[[Store, Journal], Awaitable[float]],
    bare: Callable[[Path], float],
    *,
    rounds: int,
    aim: float | None = None,
) -> Sequence[Figure]:
    """Measure each storage and the bare driver in turns, in files of their own."""
    rates: dict[str, list[float]] = {name: [] for name in STORAGES}
    bare_rates: list[float] = []
    for turn in range(rounds):
        with TemporaryDirectory(prefix="relaykit-benchmark-") as scratch:
            if turn % 2:  # neither is always the one that runs while the disk writes what the other left
                bare_rates.append(bare(Path(scratch)))
            for name, open_storage in STORAGES.items():
                async with open_storage(Path(scratch)) as (store, journal):
                    rates[name].append(await measured(store, journal))
            if not turn % 2:
                bare_rates.append(bare(Path(scratch)))
    figures = []
    reference = statistics.median(bare_rates)
    for name, each in rates.items():
        value, compared = statistics.median(each), name == "sqlite"
        figures.append(
            Figure(
                name=title.format(name),
                value=value,
                unit="/s",
                reference=reference if compared else None,
                reference_name="bare sqlite3" if compared else "",
                target=f"≥ {aim} of it" if compared and aim else "",
                met=value >= aim * reference if compared and aim else None,
            )
        )
    return figures


# ---------------------------------------------------------------- many at once


async def _at_once(work: Callable[[str], Coroutine[Any, Any, None]]) -> float:
    """Return the seconds that `work` takes for all sessions at once."""
    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for name in _names():
            tasks.start_soon(work, name)
    return time.perf_counter() - started


def _names() -> Sequence[str]:
    return [f"s{number:02}" for number in range(SESSIONS)]


def _batches(*, each: int) -> Sequence[Sequence[Entry]]:
    return [
        [Entry(first + at, AT, Frame(Kind.UPDATE, BODY, "", "session/update")) for at in range(each)]
        for first in range(1, APPENDS * each, each)
    ]


async def _appends(_: Store, journal: Journal, *, each: int) -> float:
    epochs = {name: (await journal.open(make_session(name))).epoch for name in _names()}
    batches = _batches(each=each)

    async def append(name: str) -> None:
        epoch = epochs[name]
        for batch in batches:
            await journal.append(name, epoch, batch)

    return SESSIONS * APPENDS * each / await _at_once(append)


async def _saves(store: Store, _: Journal) -> float:
    versions = {name: _versions(name) for name in _names()}
    for first, *_others in versions.values():
        await store.create(first)

    async def save(name: str) -> None:
        for session in versions[name][1:]:
            await store.save(session, expected_version=session.version - 1)

    return SESSIONS * APPENDS / await _at_once(save)


def _versions(name: str) -> Sequence[Session]:
    states = SessionState.SPAWNING, SessionState.ACTIVE
    sessions = [make_session(name, resources={"acp": {"pid": 4711, "group": 4711, "started": 12345678}})]
    for at in range(APPENDS):
        sessions.append(next_version(sessions[-1], state=states[at % 2], worktree_dir="/work/shop"))
    return sessions


# ---------------------------------------------------------------- the bare driver


def _bare(scratch: Path) -> sqlite3.Connection:
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


def _bare_appends(scratch: Path, *, each: int) -> float:
    commits = [
        [
            (number << schema.SEQ_BITS | entry.seq, 0, "UPDATE", entry.frame.body, "", "session/update", 0)
            for number in range(1, SESSIONS + 1)
            for entry in batch
        ]
        for batch in _batches(each=each)
    ]
    return _bare_rate(scratch, "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", commits)


def _bare_saves(scratch: Path) -> float:
    """Write what the plugin writes; but the sessions are encoded beforehand."""
    rows = [
        [
            (session.state.value, session.version, 0, 0, encode_session(session), name, session.version - 1)
            for session in _versions(name)
        ]
        for name in _names()
    ]
    with closing(_bare(scratch)) as connection:
        connection.executemany(
            "INSERT INTO sessions VALUES (?6, ?6, '', '', '', ?1, ?2, ?3, ?4, ?5)",
            [each[0][:6] for each in rows],
        )
    update = "UPDATE sessions SET state = ?, version = ?, last_active = ?, message_count = ?, body = ? "
    commits = [[each[at] for each in rows] for at in range(1, APPENDS + 1)]
    return _bare_rate(scratch, f"{update} WHERE id = ? AND version = ?", commits)


def _bare_rate(scratch: Path, statement: str, commits: Sequence[Sequence[tuple[object, ...]]]) -> float:
    with closing(_bare(scratch)) as connection:
        started = time.perf_counter()
        for rows in commits:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, rows)
            connection.execute("COMMIT")
        seconds = time.perf_counter() - started
    return sum(map(len, commits)) / seconds


# ---------------------------------------------------------------- one alone


async def _alone(what: str, journal: Journal, *, scale: float) -> Sequence[Figure]:
    count = int(LONE * scale)
    epoch = (await journal.open(make_session("alone"))).epoch
    seconds = []
    for seq in range(1, count + 1):
        batch = [Entry(seq, AT, Frame(Kind.UPDATE, BODY, "", "session/update"))]
        started = time.perf_counter()
        await journal.append("alone", epoch, batch)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds) * 1000

    entries = await _fill(journal, count=20 * count)
    started = time.perf_counter()
    after = 0
    while page := await journal.read("read", after=after, limit=PAGE):
        after = page[-1].seq
    rate = entries / (time.perf_counter() - started)
    assert after == entries
    return [
        Figure(
            name=f"an append alone, p50 {what}",
            value=median,
            unit="ms",
            target=f"≤ {LONE_AIM_MS:g} ms",
            met=median <= LONE_AIM_MS,
        ),
        Figure(
            name=f"entries read {what}", value=rate, unit="/s", target=f"≥ {READ_AIM:,}", met=rate >= READ_AIM
        ),
    ]


async def _fill(journal: Journal, *, count: int) -> int:
    epoch = (await journal.open(make_session("read"))).epoch
    frame = Frame(Kind.UPDATE, BODY, "", "session/update")
    for first in range(1, count + 1, 500):
        entries = [Entry(seq, AT, frame) for seq in range(first, min(first + 500, count + 1))]
        await journal.append("read", epoch, entries)
    return count


async def _listing(what: str, store: Store, *, scale: float) -> Figure:
    stored = int(STORED * scale)
    ids = iter(range(stored))

    async def create() -> None:
        for number in ids:  # shared by all who create
            state = SessionState.ACTIVE if number % (stored // MATCHING) == 0 else SessionState.CREATED
            await store.create(make_session(f"s{number:06}", state=state))

    async with anyio.create_task_group() as tasks:
        for _ in range(SESSIONS):
            tasks.start_soon(create)
    seconds = []
    for _ in range(200):
        started = time.perf_counter()
        found = await store.list(SessionFilter(state=SessionState.ACTIVE, owner="local"))
        seconds.append(time.perf_counter() - started)
        assert len(found) == MATCHING
    median = statistics.median(seconds) * 1000
    return Figure(
        name=f"list by state, {stored:,} stored, {MATCHING} match, p50 {what}",
        value=median,
        unit="ms",
        target=f"≤ {LIST_AIM_MS:g} ms",
        met=median <= LIST_AIM_MS,
    )
