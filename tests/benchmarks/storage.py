"""(h) Storages: entries and transitions a second, an append alone, reading, and listing by state.

Each beside its bare driver: the same rows, in the same tables with the same settings, by one thread without an event
loop; the writes of all sessions share a commit, as they do in the plugins when nobody is late.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

import bare_postgres
import bare_sqlite
from figures import Figure
from relaykit.conversation import Entry, Frame, Journal, Kind, MemoryJournal
from relaykit.session import MemoryStore, Session, SessionFilter, SessionState, Store
from relaykit.testing.store_contract import make_session, next_version
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from relaykit_sqlite.storage import open_sqlite
from support.postgres import NoServer, running_postgres

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

Bare = Callable[[Path], float]


@dataclass(frozen=True)
class _Kind:
    """A storage, and its bare driver.

    :param open: opens it, new, in a scratch directory.
    """

    name: str
    open: Open
    driver: str = ""
    appends: Callable[..., float] | None = None
    saves: Callable[..., float] | None = None
    aim: float | None = None


_MEMORY = _Kind("memory", lambda _: nullcontext((MemoryStore(), MemoryJournal())))
_SQLITE = _Kind(
    "sqlite",
    lambda scratch: open_sqlite(scratch / "relay.db"),
    "bare sqlite3",
    bare_sqlite.appends,
    bare_sqlite.saves,
    RATIO_AIM,
)


def _postgres(dsn: str) -> _Kind:
    return _Kind(
        "postgres",
        lambda scratch: open_postgres(PostgresSettings(dsn=dsn, schema=scratch.name)),
        "bare psycopg",
        lambda _scratch, **given: bare_postgres.appends(dsn, **given),
        lambda _scratch, **given: bare_postgres.saves(dsn, **given),
    )


def measure_storage(*, scale: float) -> Sequence[Figure]:
    figures: list[Figure] = []
    with ExitStack() as stack:
        kinds = [_MEMORY, _SQLITE]
        try:
            server = stack.enter_context(running_postgres(fsync="on"))
        except NoServer as error:
            print(f"  postgres is left out: {error}", file=sys.stderr)
        else:
            kinds.append(_postgres(server.dsn))
        for backend in ("asyncio", "trio"):
            figures += anyio.run(partial(_measure, kinds, backend, scale=scale), backend=backend)
    return figures


async def _measure(kinds: Sequence[_Kind], backend: str, *, scale: float) -> Sequence[Figure]:
    rounds = max(1, round(ROUNDS * scale))
    figures: list[Figure] = []
    for each in (1, 8):
        bare = {
            kind.name: partial(kind.appends, batches=_batches(each=each), sessions=SESSIONS)
            for kind in kinds
            if kind.appends
        }
        title = f"entries, {SESSIONS} sessions at once, {each} an append ({{}}, {backend})"
        figures += await _compared(kinds, title, partial(_appends, each=each), bare, rounds=rounds)
    bare = {
        kind.name: partial(kind.saves, versions=[_versions(name) for name in _names()])
        for kind in kinds
        if kind.saves
    }
    title = f"transitions, {SESSIONS} sessions at once ({{}}, {backend})"
    figures += await _compared(kinds, title, _saves, bare, rounds=rounds)
    for kind in kinds:
        with TemporaryDirectory(prefix="relaykit-benchmark-") as scratch:
            async with kind.open(Path(scratch)) as (store, journal):
                what = f"({kind.name}, {backend})"
                figures += await _alone(what, journal, scale=scale)
                figures.append(await _listing(what, store, scale=scale))
    return figures


async def _compared(
    kinds: Sequence[_Kind],
    title: str,
    measured: Callable[[Store, Journal], Awaitable[float]],
    bare: Mapping[str, Bare],
    *,
    rounds: int,
) -> Sequence[Figure]:
    """Measure each storage and its bare driver in turns, each time in files of their own."""
    rates: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    bare_rates: dict[str, list[float]] = {name: [] for name in bare}
    for turn in range(rounds):
        for kind in kinds:
            with TemporaryDirectory(prefix="relaykit-benchmark-") as scratch:
                driver = bare.get(kind.name)
                # Neither is always the one that runs while the disk writes what the other left.
                if driver is not None and turn % 2:
                    bare_rates[kind.name].append(driver(Path(scratch)))
                async with kind.open(Path(scratch)) as (store, journal):
                    rates[kind.name].append(await measured(store, journal))
                if driver is not None and not turn % 2:
                    bare_rates[kind.name].append(driver(Path(scratch)))
    figures = []
    for kind in kinds:
        value = statistics.median(rates[kind.name])
        reference = statistics.median(bare_rates[kind.name]) if kind.name in bare else None
        aimed = kind.aim is not None and reference is not None
        figures.append(
            Figure(
                name=title.format(kind.name),
                value=value,
                unit="/s",
                reference=reference,
                reference_name=kind.driver,
                target=f"≥ {kind.aim} of it" if aimed else "",
                met=value >= (kind.aim or 0) * (reference or 0) if aimed else None,
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
