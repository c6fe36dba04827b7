"""(g) ``/acp`` with a storage that survives, beside the same relay with memory: turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

from figures import Figure
from support.acp_talk import AcpTalker
from support.servers import Server, relay

STORAGE, MEMORY = "sqlite", "memory"
ROUNDS = 6
TRIPS = 300
UPDATES = 50_000
SIZE = 200  # bytes of text in an update
AIM_UPDATES = 0.8


def measure_durable(*, scale: float) -> Sequence[Figure]:
    trips: dict[str, list[float]] = {STORAGE: [], MEMORY: []}
    rates: dict[str, list[float]] = {STORAGE: [], MEMORY: []}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(relay(storage=name)) for name in (STORAGE, MEMORY)}
        for _ in range(ROUNDS):
            for name, server in servers.items():
                trips[name] += turns(server, int(TRIPS * scale))
            for name, server in servers.items():
                rates[name].append(stream(server, int(UPDATES * scale)))
    rate, memory_rate = (statistics.median(rates[name]) for name in (STORAGE, MEMORY))
    p50, memory_p50 = (statistics.median(trips[name]) for name in (STORAGE, MEMORY))
    return [
        Figure(
            name=f"/acp updates streamed to one client, {STORAGE}",
            value=rate,
            unit="/s",
            reference=memory_rate,
            reference_name=MEMORY,
            target=f"≥ {AIM_UPDATES} x memory",
            met=rate >= AIM_UPDATES * memory_rate,
        ),
        Figure(
            name=f"/acp round trip, p50, {STORAGE}",
            value=p50,
            unit="µs",
            reference=memory_p50,
            reference_name=MEMORY,
        ),
    ]


def _talker(server: Server) -> AcpTalker:
    return AcpTalker(server.url.removesuffix("/ws") + "/acp?agent=echo", headers=server.headers)


def turns(server: Server, count: int) -> list[float]:
    times = []
    with _talker(server) as talker:
        session = talker.new_session()
        prompt = talker.prompt_message(session, "x" * 60)
        for _ in range(count // 3):  # to warm up
            talker.turn(prompt)
        for _ in range(count):
            started = time.perf_counter()
            talker.turn(prompt)
            times.append((time.perf_counter() - started) * 1e6)
        talker.ask("session/close", {"sessionId": session})
    return times


def stream(server: Server, count: int) -> float:
    with _talker(server) as talker:
        session = talker.new_session()
        prompt = talker.prompt_message(session, f"/stream {count} {SIZE}")
        started = time.perf_counter()
        received = talker.turn_with_updates(prompt)
        assert received == count + 1, f"{received - 1} of {count} arrived"
        rate = count / (time.perf_counter() - started)
        talker.ask("session/close", {"sessionId": session})
    return rate
