"""(f) ``relaykit connect``: what it adds to a round trip, and how long it takes to start."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from figures import Figure
from support.acp_talk import AcpTalker
from support.servers import relay

ROUNDS = 6
TRIPS = 300
STARTS = 20
AIM_ADDED = 100  # µs
AIM_START = 150  # ms

_CONNECT = [sys.executable, "-m", "relaykit", "connect"]


class _Editor:
    """What an editor does with its agent: lines out, lines in."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [*_CONNECT, url], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._next_id = 0
        self.ask("initialize", {"protocolVersion": 1, "clientCapabilities": {}})

    def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self._next_id += 1
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        self._write(json.dumps(message).encode())
        while "method" in (answer := json.loads(self._read())):
            pass
        result: dict[str, Any] = answer["result"]
        return result

    def turn(self, prompt: bytes) -> None:
        self._write(prompt)
        while b'"stopReason"' not in self._read():
            pass

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "connect ended"
        return line


def measure_connect(*, scale: float) -> Sequence[Figure]:
    direct, through = _round_trips(int(TRIPS * scale))
    start, bare = _starts(max(3, int(STARTS * scale)))
    added = statistics.median(through) - statistics.median(direct)
    return [
        Figure(
            name="connect: added to a round trip, p50",
            value=added,
            unit="µs",
            reference=statistics.median(direct),
            reference_name="the trip itself",
            target=f"≤ {AIM_ADDED} µs",
            met=added <= AIM_ADDED,
        ),
        Figure(
            name="connect: from its start to its first byte",
            value=start,
            unit="ms",
            reference=bare,
            reference_name="python -c pass",
            target=f"≤ {AIM_START} ms",
            met=start <= AIM_START,
        ),
    ]


def _round_trips(count: int) -> tuple[list[float], list[float]]:
    with relay() as server:
        url = server.url.removesuffix("/ws") + "/acp"
        token = server.headers["Authorization"].removeprefix("Bearer ")
        editor = _Editor(url, {**os.environ, "RELAYKIT_TOKEN": token})
        try:
            with AcpTalker(url, headers=server.headers) as talker:
                opened = editor.ask("session/new", {"cwd": "/", "mcpServers": []})
                prompts = [
                    talker.prompt_message(session, "x" * 60)
                    for session in (talker.new_session(), opened["sessionId"])
                ]
                times: tuple[list[float], list[float]] = ([], [])
                for round_number in range(ROUNDS + 1):
                    for each, turn, prompt in zip(times, (talker.turn, editor.turn), prompts, strict=True):
                        measured = _times(turn, prompt, count)
                        each.extend(measured if round_number else [])  # the first is to warm up
                return times
        finally:
            editor.close()


def _times(turn: Callable[[bytes], None], prompt: bytes, count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        turn(prompt)
        times.append((time.perf_counter() - started) * 1e6)
    return times


def _starts(count: int) -> tuple[float, float]:
    """Return milliseconds until ``connect`` calls, and those of a bare interpreter, turn by turn."""
    starts, bare = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(count):
            started = time.perf_counter()
            process = subprocess.Popen(
                [*_CONNECT, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            called, _address = listener.accept()
            called.recv(1)
            starts.append((time.perf_counter() - started) * 1e3)
            process.kill()
            process.communicate()
            called.close()
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            bare.append((time.perf_counter() - started) * 1e3)
    return statistics.median(starts), statistics.median(bare)
