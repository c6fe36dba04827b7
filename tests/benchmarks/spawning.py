"""(j) A session's start and its end, one at a time, beside the agent by hand; and what watches over the relay."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from figures import Figure
from relaykit_acp import marked
from sessions import ECHO_AGENT, ask
from support.servers import Server, relay
from support.talk import Talker

ROUNDS = 200
RATIO = 1.15
STOP = 50.0


def measure_spawning(*, scale: float) -> Sequence[Figure]:
    relayed: list[tuple[float, float]] = []
    by_hand: list[tuple[float, float]] = []
    with relay(agents={"bench": ECHO_AGENT}) as server, Talker(server) as talker:
        talker.stop(talker.create("first", agent="bench"))  # what is paid once is not counted
        for _ in range(int(ROUNDS * scale)):
            relayed.append(_relayed(talker))
            by_hand.append(_by_hand())
        watcher = _watcher_memory(server)
    start, stop = (statistics.median(times) for times in zip(*relayed, strict=True))
    start_by_hand, stop_by_hand = (statistics.median(times) for times in zip(*by_hand, strict=True))
    return [
        Figure(
            name="spawn to ACTIVE, p50 (echo agent)",
            value=start,
            unit="ms",
            reference=start_by_hand,
            reference_name="the agent by hand",
            target=f"≤ {RATIO} x",
            met=start <= RATIO * start_by_hand,
        ),
        Figure(
            name="stop to CLEANED, p50 (echo agent)",
            value=stop,
            unit="ms",
            reference=stop_by_hand,
            reference_name="the agent by hand",
            target=f"≤ {STOP:g} ms",
            met=stop <= STOP,
        ),
        Figure(name="memory of the watcher (PSS), one for a relay", value=watcher / 1e6, unit="MB"),
    ]


def _watcher_memory(server: Server) -> int:
    """Return the bytes that the watcher takes, its share of what it shares included."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            arguments = (process / "cmdline").read_bytes().decode().split("\0")
            if marked.__file__ in arguments and str(server.pid) in arguments:
                lines = (process / "smaps_rollup").read_text().splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    raise RuntimeError("nobody watches over the relay")


def _relayed(talker: Talker) -> tuple[float, float]:
    begun = time.perf_counter()
    session = talker.create("bench", agent="bench")
    started = time.perf_counter()
    talker.stop(session)
    return _milliseconds(begun, started, time.perf_counter())


def _by_hand() -> tuple[float, float]:
    begun = time.perf_counter()
    with subprocess.Popen(ECHO_AGENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        ask(process, "initialize", {"protocolVersion": 1})
        ask(process, "session/new", {"cwd": "/", "mcpServers": []})
        started = time.perf_counter()
    return _milliseconds(begun, started, time.perf_counter())


def _milliseconds(begun: float, started: float, ended: float) -> tuple[float, float]:
    return (started - begun) * 1000, (ended - started) * 1000
