"""(e) ``/acp`` beside other bridges from WebSockets to agents: the same client, the same agent, turn by turn.

They relay lines and keep nothing. Here every message is numbered, recorded in the journal (in memory) and
delivered through a cursor.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import relaykit_acp.echo_agent
from figures import Figure
from support.acp_talk import AcpTalker
from support.servers import Server, relay

ROUNDS = 6
TRIPS = 300
UPDATES = 50_000
SIZE = 200  # bytes of text in an update
SESSIONS = 40
IDLE = 50

_AGENT = [sys.executable, "-I", "-S", relaykit_acp.echo_agent.__file__]
_START = 30.0

# How the others are started, and where they serve: `{port}` is the port, `{agent}` the agent's command as a
# shell has it; where that is not named, the command follows. supergateway has one agent for all its clients.
_OTHERS: Mapping[str, tuple[str, Sequence[str], str]] = {
    "acpremote": ("uvx", ["acpremote@1.10.0", "expose", "--port", "{port}", "--"], "/acp/ws"),
    "websocketd": ("websocketd", ["--address=127.0.0.1", "--port={port}", "--loglevel=error"], "/"),
    "stdio-to-ws": ("stdio-to-ws", ["{agent}", "--port", "{port}"], "/"),
    "supergateway": (
        "supergateway",
        ["--stdio", "{agent}", "--outputTransport", "ws", "--port", "{port}", "--logLevel", "none"],
        "/message",
    ),
}


@dataclass(slots=True)
class _Bridge:
    """A server that is measured, and what was measured of it."""

    name: str
    url: str
    headers: Mapping[str, str]
    pid: int
    closes: bool  # a session ends by `session/close`, not with the connection
    trips: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    lives: list[float] = field(default_factory=list)
    memory: float = 0.0

    def talker(self) -> AcpTalker:
        return AcpTalker(self.url, headers=self.headers)

    def cpu(self) -> float:
        """Return the seconds of processor time that the server alone has taken."""
        return Server(self.pid, self.url, dict(self.headers)).cpu()

    def one_life(self) -> None:
        with self.talker() as talker:
            session = talker.new_session()
            talker.turn(talker.prompt_message(session, "hello"))
            if self.closes:
                talker.ask("session/close", {"sessionId": session})


def measure_bridges(*, scale: float) -> Sequence[Figure]:
    with ExitStack() as stack:
        ours = stack.enter_context(relay(agents={"bench": _AGENT}))
        url = ours.url.removesuffix("/ws") + "/acp?agent=bench"
        bridges = [_Bridge("relaykit", url, ours.headers, ours.pid, closes=True)]
        for name in _OTHERS:
            other = stack.enter_context(_other(name))
            if other is not None:
                bridges.append(other)
        for _ in range(ROUNDS):
            for bridge in bridges:
                _turns(bridge, int(TRIPS * scale))
            for bridge in bridges:
                _stream(bridge, int(UPDATES * scale))
            for bridge in bridges:
                _lives(bridge, max(4, int(SESSIONS * scale)))
        for bridge in bridges:
            _idle(bridge, max(4, int(IDLE * scale)))
    first, *others = bridges
    return _figures(first, others)


# Each opens a connection of its own: the client answers no pings, and some servers ask after 20 seconds.


def _turns(bridge: _Bridge, count: int) -> None:
    with bridge.talker() as talker:
        prompt = talker.prompt_message(talker.new_session(), "x" * 60)
        for _ in range(count // 3):  # to warm up
            talker.turn(prompt)
        for _ in range(count):
            started = time.perf_counter()
            talker.turn(prompt)
            bridge.trips.append((time.perf_counter() - started) * 1e6)


def _stream(bridge: _Bridge, count: int) -> None:
    with bridge.talker() as talker:
        prompt = talker.prompt_message(talker.new_session(), f"/stream {count} {SIZE}")
        cpu, started = bridge.cpu(), time.perf_counter()
        received = talker.turn_with_updates(prompt)
        assert received == count + 1, f"{bridge.name}: {received - 1} of {count} arrived"
        bridge.rates.append(count / (time.perf_counter() - started))
        bridge.costs.append((bridge.cpu() - cpu) / count * 1e6)


def _lives(bridge: _Bridge, count: int) -> None:
    started = time.perf_counter()
    for _ in range(count):
        bridge.one_life()
    bridge.lives.append(count / (time.perf_counter() - started))


def _idle(bridge: _Bridge, count: int) -> None:
    server = Server(bridge.pid, bridge.url, dict(bridge.headers))
    before = server.memory()
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(bridge.talker()).new_session()
        bridge.memory = (server.memory() - before) / count / 1000


@contextmanager
def _other(name: str) -> Iterator[_Bridge | None]:
    """Start another bridge, if its program is here; else say that it is left out."""
    program, arguments, path = _OTHERS[name]
    found = shutil.which(program)
    if found is None:
        print(f"  {name} is left out: there is no {program!r} on PATH", file=sys.stderr)
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = [found, *(argument.format(port=port, agent=shlex.join(_AGENT)) for argument in arguments)]
    if "{agent}" not in arguments:
        command += _AGENT
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        url = f"ws://127.0.0.1:{port}{path}"
        if _answers(url, process):
            yield _Bridge(name, url, {}, _server(process.pid, port), closes=False)
        else:
            print(f"  {name} is left out: it did not start", file=sys.stderr)
            yield None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            AcpTalker(url).socket.close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def _server(pid: int, port: int) -> int:
    """Return the process that serves: a launcher such as uvx may be in front of it, with the port in its command."""
    while True:
        lists = Path(f"/proc/{pid}/task").glob("*/children")  # any thread may have started it
        children = " ".join(each.read_text() for each in lists).split()
        inner = [child for child in children if str(port).encode() in _command(child)]
        if not inner:
            return pid
        pid = int(inner[0])


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it ended


def _figures(ours: _Bridge, others: Sequence[_Bridge]) -> Sequence[Figure]:
    fastest = max(others, key=lambda each: statistics.median(each.rates), default=ours)
    rows: list[Figure] = []
    for other in others:
        nearest = other.name == "acpremote"
        for name, unit, of, lower_is_better, aimed in (
            ("/acp round trip, p50", "µs", _p50, True, nearest),
            ("/acp round trip, p99", "µs", _p99, True, False),
            ("/acp updates streamed to one client", "/s", _rate, False, other is fastest),
            ("CPU of the server for an update", "µs", _cost, True, False),
            ("sessions created, prompted, closed, one by one", "/s", _lives_a_second, False, nearest),
            ("memory of an idle session", "kB", _memory, True, False),
        ):
            value, reference = of(ours), of(other)
            better = value <= reference if lower_is_better else value >= reference
            rows.append(
                Figure(
                    name=name,
                    value=value,
                    unit=unit,
                    reference=reference,
                    reference_name=other.name,
                    target=("≤ its" if lower_is_better else "≥ its") if aimed else "",
                    met=better if aimed else None,
                )
            )
    return rows


def _p50(bridge: _Bridge) -> float:
    return statistics.median(bridge.trips)


def _p99(bridge: _Bridge) -> float:
    return statistics.quantiles(bridge.trips, n=100)[98]


def _rate(bridge: _Bridge) -> float:
    return statistics.median(bridge.rates)


def _cost(bridge: _Bridge) -> float:
    return statistics.median(bridge.costs)


def _lives_a_second(bridge: _Bridge) -> float:
    return statistics.median(bridge.lives)


def _memory(bridge: _Bridge) -> float:
    return bridge.memory
