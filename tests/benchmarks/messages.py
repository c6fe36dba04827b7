"""(b) Round trips of messages, and streamed updates, over ``/ws``; beside a bare WebSocket echo."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable, Sequence

from figures import Figure
from support.raw_websocket import RawWebSocket
from support.servers import echo, relay
from support.talk import Talker

ROUNDS = 6
TRIPS = 400
UPDATES = 50_000
SIZE = 200  # bytes of text in an update
AIM_P50 = 2.5
AIM_UPDATES = 40_000


def measure_messages(*, scale: float) -> Sequence[Figure]:
    trips, updates = int(TRIPS * scale), int(UPDATES * scale)
    with relay() as server, Talker(server) as talker, echo(_free_port()) as reference:
        session = talker.create("bench")
        plain = RawWebSocket(reference.url)
        message = json.dumps(
            {"version": "1.0", "type": "agent:message", "sessionId": session, "content": "x" * 60}
        ).encode()

        def through_relay() -> None:
            talker.socket.send(message)
            while b'"agent:response"' not in talker.socket.receive():
                pass

        def through_echo() -> None:
            plain.send(message)
            plain.receive()

        def stream_relay() -> float:
            talker.say("agent:message", sessionId=session, content=f"/stream {updates} {SIZE}")
            return _rate(talker.socket, b'"agent:response"', updates)

        def stream_echo() -> float:
            plain.send(b"stream %d" % updates)
            return _rate(plain, b"stream", updates)

        trip_times: tuple[list[float], list[float]] = ([], [])
        rates: tuple[list[float], list[float]] = ([], [])
        _times(through_relay, trips // 2)  # warm up
        for _ in range(ROUNDS):
            trip_times[0].extend(_times(through_relay, trips))
            trip_times[1].extend(_times(through_echo, trips))
            rates[0].append(stream_relay())
            rates[1].append(stream_echo())

    p50, echo_p50 = (statistics.median(times) for times in trip_times)
    p99, echo_p99 = (statistics.quantiles(times, n=100)[98] for times in trip_times)
    rate, echo_rate = (statistics.median(each) for each in rates)
    bare = "bare echo"
    return [
        Figure(
            name="round trip, p50",
            value=p50,
            unit="µs",
            reference=echo_p50,
            reference_name=bare,
            target=f"≤ {AIM_P50} x echo",
            met=p50 <= AIM_P50 * echo_p50,
        ),
        Figure(name="round trip, p99", value=p99, unit="µs", reference=echo_p99, reference_name=bare),
        Figure(
            name="updates streamed to one client",
            value=rate,
            unit="/s",
            reference=echo_rate,
            reference_name=bare,
            target=f"≥ {AIM_UPDATES:,} /s",
            met=rate >= AIM_UPDATES,
        ),
    ]


def _times(trip: Callable[[], None], count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        trip()
        times.append((time.perf_counter() - started) * 1e6)
    return times


def _rate(connection: RawWebSocket, last: bytes, count: int) -> float:
    started = time.perf_counter()
    received = 0
    while True:
        batch = connection.receive_batch()
        received += len(batch)
        if last in batch[-1]:
            break
    seconds = time.perf_counter() - started
    assert received == count + 1, f"{received - 1} of {count} arrived"
    return count / seconds


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
