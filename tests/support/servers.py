"""Servers in processes of their own: a relay, and a bare WebSocket echo to measure it against."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from relaykit.relay.running import read_running

_START = 20.0
_STOP = 60.0

# uvicorn with the same options as the gateway's, and an application that does nothing but answer:
# every message with itself, and `stream N` with N messages of 200 bytes.
_ECHO = """
import sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        text = event["text"]
        if text.startswith("stream "):
            for _ in range(int(text[7:])):
                await send({"type": "websocket.send", "text": "x" * 200})
        await send({"type": "websocket.send", "text": text})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), ws="websockets-sansio", loop="uvloop",
            ws_per_message_deflate=False, access_log=False, log_level="error", lifespan="off")
"""


@dataclass(frozen=True)
class Server:
    """A running server.

    :param headers: what a client has to send to be let in.
    """

    pid: int
    url: str
    headers: dict[str, str]

    def cpu(self) -> float:
        """Return the seconds of processor time that the process alone has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the bytes that the process alone holds: private and anonymous, as the kernel counts them."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel does not say")


@contextmanager
def relay(
    *,
    workspace: str = "in_place",
    project: Path | None = None,
    agents: Mapping[str, Sequence[str]] | None = None,
    state_dir: Path | None = None,
    node: str = "local",
    storage: str = "memory",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """Run ``relaykit serve`` on a free port, with a state directory of its own.

    :param agents: commands by name, besides the echo agent.
    :param variables: more of the environment.
    """
    with TemporaryDirectory(prefix="relaykit-test-") as scratch:
        state = state_dir or Path(scratch) / "state"
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RELAYKIT_")},
            "RELAYKIT_RELAY__STATE_DIR": str(state),
            "RELAYKIT_RELAY__WORKSPACE": workspace,
            "RELAYKIT_RELAY__NODE": node,
            "RELAYKIT_RELAY__STORAGE": storage,
            "RELAYKIT_RELAY__DISABLED": '["actions", "audit"]',  # they are not among the standard ones
            "RELAYKIT_PLUGINS__GATEWAY__PORT": "0",
            "RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS": "false",  # whatever is installed here
            "RELAYKIT_PLUGINS__GATEWAY__PING_INTERVAL": "3600",  # the raw client answers none
            **variables,
        }
        for name, command in (agents or {}).items():
            environ[f"RELAYKIT_AGENTS__{name.upper()}__COMMAND"] = json.dumps(command)
        serve = [sys.executable, "-m", "relaykit", "serve", "--log-level", "warning"]
        with _process(serve, environ, cwd=project or Path(scratch)) as process:
            deadline = time.monotonic() + _START
            while (running := read_running(state)) is None or not running.url or running.pid != process.pid:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the relay did not start")
                time.sleep(0.02)
            url = running.url.rstrip("/").replace("http", "ws", 1)
            token = (state / "gateway" / "token").read_text().strip()
            yield Server(process.pid, f"{url}/ws", {"Authorization": f"Bearer {token}"})


@contextmanager
def echo(port: int) -> Iterator[Server]:
    """Run the bare echo."""
    from support.raw_websocket import RawWebSocket

    with _process([sys.executable, "-c", _ECHO, str(port)], dict(os.environ), cwd=Path.cwd()) as process:
        url = f"ws://127.0.0.1:{port}/"
        deadline = time.monotonic() + _START
        while True:
            try:
                RawWebSocket(url).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield Server(process.pid, url, {})


@contextmanager
def _process(command: list[str], environ: dict[str, str], *, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environ, cwd=cwd, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
