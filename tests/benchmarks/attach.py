"""(h) Coming back: the cost of many clients on one session, how fast one catches up, and the last page of history."""

from __future__ import annotations

import json
import os
import resource
import selectors
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from figures import Figure
from relaykit.clock import SystemClock
from relaykit.conversation import Conversation, Frame, Journal, Kind, MemoryJournal
from relaykit.testing.store_contract import make_session
from relaykit_sqlite.storage import open_sqlite
from support.acp_talk import AcpTalker
from support.servers import Server, relay

CROWDS = (1, 10, 100, 1000)
MESSAGES = 200_000  # in all, for each crowd
BEHIND = 100_000
SIZE = 40  # bytes of text in an update
ROUNDS = 5
AIM_FLAT = 1.5
AIM_FIRST_MS = 50
AIM_RATE = {"memory": 100_000, "sqlite": 50_000}
AIM_HISTORY_MS = 20
TICK = os.sysconf("SC_CLK_TCK")


def measure_attach(*, scale: float) -> Sequence[Figure]:
    figures: list[Figure] = []
    figures += _crowds(scale)
    for storage in AIM_RATE:
        figures += anyio.run(partial(_core, storage, int(BEHIND * scale)))
        figures += _through_the_gateway(storage, int(BEHIND * scale))
    return figures


# ---------------------------------------------------------------- many clients on one session


def _crowds(scale: float) -> Sequence[Figure]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the relay inherits it
    costs: dict[int, list[float]] = {crowd: [] for crowd in CROWDS}
    for _ in range(3):
        for crowd in CROWDS:
            costs[crowd].append(_cost(crowd, int(MESSAGES * scale)))
    medians = {crowd: statistics.median(each) for crowd, each in costs.items()}
    ten = medians[10]
    return [
        Figure(
            name=f"{crowd:,} clients on one session: the relay's time for a client and entry",
            value=cost,
            unit="µs",
            reference=ten if crowd != 10 else None,
            reference_name="at 10" if crowd != 10 else "",
            target=f"≤ {AIM_FLAT} x that at 10" if crowd > 10 else "",
            met=cost <= AIM_FLAT * ten if crowd > 10 else None,
        )
        for crowd, cost in medians.items()
    ]


def _cost(crowd: int, messages: int) -> float:
    """Return the processor time, in µs, that the relay takes for each client and entry."""
    entries = max(messages // crowd, 50)
    with relay() as server, _talker(server) as talker, ExitStack() as stack:
        session = talker.new_session()
        sink = _Sink([talker, *(stack.enter_context(_talker(server)) for _ in range(crowd - 1))], session)
        sink.stream(max(entries // 10, 10))  # to warm up
        before = _processor_seconds(server)
        sink.stream(entries)
        return (_processor_seconds(server) - before) / (entries * crowd) * 1e6


def _talker(server: Server) -> AcpTalker:
    return AcpTalker(server.url.removesuffix("/ws") + "/acp?agent=echo", headers=server.headers)


def _processor_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class _Sink:
    """Clients that read, and look at nothing but the number of the last update."""

    def __init__(self, talkers: Sequence[AcpTalker], session: str) -> None:
        self._session = session
        self._first = talkers[0]
        self._clients = [talker.socket for talker in talkers]
        for talker in talkers[1:]:
            talker.ask("session/load", {"sessionId": session, "cwd": "/", "mcpServers": []})

    def stream(self, count: int) -> None:
        """Have the agent send so many updates, and read until everybody has them."""
        ends = dict.fromkeys(self._clients, b"%07d " % (count - 1))
        ends[self._first.socket] = b'"stopReason"'
        heard = dict.fromkeys(self._clients, b"")
        with selectors.DefaultSelector() as selector:
            for client in self._clients:
                selector.register(client, selectors.EVENT_READ, client)
            self._first.socket.send(self._first.prompt_message(self._session, f"/stream {count} {SIZE}"))
            while ends:
                ready = selector.select(60)
                assert ready, "some have not heard everything"
                for key, _ in ready:
                    client = key.data
                    data = client.receive_raw()
                    if client in ends:
                        heard[client] = heard[client][-len(ends[client]) :] + data
                        if ends[client] in heard[client]:
                            del ends[client]


# ---------------------------------------------------------------- far behind


async def _core(storage: str, behind: int) -> Sequence[Figure]:
    """Measure a cursor: what a client is told is as fast as this at the most."""
    with TemporaryDirectory(prefix="relaykit-benchmark-") as scratch:
        if storage == "memory":
            return await _read_by_cursor(storage, MemoryJournal(), behind)
        async with open_sqlite(Path(scratch) / "relay.db") as (_, journal):
            return await _read_by_cursor(storage, journal, behind)


async def _read_by_cursor(storage: str, journal: Journal, behind: int) -> Sequence[Figure]:
    conversation = Conversation(journal=journal, clock=SystemClock())
    await conversation.open(make_session("s1"))
    text = "x" * SIZE
    content = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    frame = Frame(Kind.UPDATE, json.dumps({"update": content}).encode(), method="session/update")
    for _ in range(behind // 500):
        await conversation.publish([frame] * 500)
    firsts, rates = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        cursor = conversation.attach()
        await cursor.next()
        firsts.append((time.perf_counter() - started) * 1e3)
        while not (await cursor.next()).caught_up:
            pass
        rates.append(behind / (time.perf_counter() - started))
    return _catching_up(f"a cursor, {storage}", storage, behind, firsts, rates)


def _through_the_gateway(storage: str, behind: int) -> Sequence[Figure]:
    """Measure what a client of ``/acp`` gets that loads a session."""
    with relay(storage=storage) as server, _talker(server) as talker:
        session = talker.new_session()
        talker.turn_with_updates(talker.prompt_message(session, f"/stream {behind} {SIZE}"))
        firsts, rates, pages = [], [], []
        load = {"sessionId": session, "cwd": "/", "mcpServers": []}
        for _ in range(ROUNDS):
            with _talker(server) as late:
                first, whole, count = _loaded(late, load)
                assert count >= behind
                firsts.append(first * 1e3)
                rates.append(behind / whole)
            started = time.perf_counter()
            talker.ask("_relaykit/history", {"sessionId": session, "limit": 100})
            pages.append((time.perf_counter() - started) * 1e3)
    page = statistics.median(pages)
    return [
        *_catching_up(f"/acp, {storage}", storage, behind, firsts, rates),
        Figure(
            name=f"the last page of history, {behind:,} entries (/acp, {storage})",
            value=page,
            unit="ms",
            target=f"≤ {AIM_HISTORY_MS} ms",
            met=page <= AIM_HISTORY_MS,
        ),
    ]


def _loaded(talker: AcpTalker, load: Mapping[str, Any]) -> tuple[float, float, int]:
    """Return the seconds to the first entry and to the answer of ``session/load``, and how many messages came."""
    asked = {"jsonrpc": "2.0", "id": "load", "method": "session/load", "params": load}
    started = time.perf_counter()
    talker.socket.send(json.dumps(asked).encode())
    batch = talker.socket.receive_batch()
    first, count = time.perf_counter() - started, len(batch)
    while b'"turnRunning"' not in batch[-1]:
        batch = talker.socket.receive_batch()
        count += len(batch)
    return first, time.perf_counter() - started, count


def _catching_up(
    what: str, storage: str, behind: int, firsts: Sequence[float], rates: Sequence[float]
) -> Sequence[Figure]:
    first, rate, aim = statistics.median(firsts), statistics.median(rates), AIM_RATE[storage]
    return [
        Figure(
            name=f"{behind:,} entries behind: the first ({what})",
            value=first,
            unit="ms",
            target=f"≤ {AIM_FIRST_MS} ms",
            met=first <= AIM_FIRST_MS,
        ),
        Figure(
            name=f"{behind:,} entries behind: all ({what})",
            value=rate,
            unit="/s",
            target=f"≥ {aim:,} /s",
            met=rate >= aim,
        ),
    ]
