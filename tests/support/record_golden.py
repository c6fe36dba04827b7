"""Record what real agents and the official clients say, anew: the test data of ``test_golden_frames.py``.

``RELAYKIT_REAL_AGENTS=$(.ci/real-agents) PYTHONPATH=tests python -m support.record_golden``

Each agent is driven without a relay, through `stdio_tee`, by a client that is only here for that; each client
talks to the echo agent. Paths and addresses of the machine are taken out of what was said.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import anyio
from acp.transports import spawn_stdio_transport

import relaykit_acp
from support import stdio_tee
from support.model_stub import ModelStub
from support.real_agents import NAMES, command_of, installed
from support.sdk_client import SdkClient, begin, converse

GOLDEN = Path(__file__).parents[1] / "end_to_end" / "golden"
ECHO = [sys.executable, str(Path(relaykit_acp.__file__).with_name("echo_agent.py"))]

# A JSON string of more than 80 characters: agents list their manuals.
_LONG = re.compile(r'"((?:[^"\\]|\\.){80})(?:[^"\\]|\\.)*"')

# What each agent is asked besides prompts.
_CALLS = {
    "claude": ("session/set_mode", {"modeId": "plan"}),
    "opencode": ("session/set_config_option", {"configId": "mode", "value": "plan"}),
    "qwen": ("session/set_mode", {"modeId": "plan"}),
}


class Driver:
    """The client's side of a recording: it sends requests one by one, and permits what it is told to."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._next_id = 0
        self._kind = "allow_once"
        self._session = ""

    def talk(self, cwd: str, call: tuple[str, dict[str, Any]]) -> None:
        """Hold the conversation."""
        capabilities = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}
        self._ask("initialize", {"protocolVersion": 1, "clientCapabilities": capabilities})
        self._session = self._ask("session/new", {"cwd": cwd, "mcpServers": []})["sessionId"]
        self._prompt("grüße 🙂")
        self._prompt("run: echo made >proof.txt && echo it is done")
        self._kind = "reject_once"
        self._prompt("run: echo refused >proof.txt")
        self._prompt("wait")
        self._ask(call[0], {"sessionId": self._session, **call[1]})

    def _prompt(self, text: str) -> None:
        prompt = [{"type": "text", "text": text}]
        self._ask("session/prompt", {"sessionId": self._session, "prompt": prompt})

    def _ask(self, method: str, params: object) -> Any:
        self._next_id += 1
        self._send({"id": self._next_id, "method": method, "params": params})
        while True:
            message = json.loads(self._stdout.readline())
            if "method" not in message and message["id"] == self._next_id:
                return message["result"]
            if "id" in message:
                self._answer(message)
            elif '"waiting"' in json.dumps(message):
                self._send({"method": "session/cancel", "params": {"sessionId": self._session}})

    def _answer(self, message: Any) -> None:
        if message["method"] == "session/request_permission":
            options = message["params"]["options"]
            chosen = next(option["optionId"] for option in options if option["kind"] == self._kind)
            answer: dict[str, Any] = {"result": {"outcome": {"outcome": "selected", "optionId": chosen}}}
        else:
            answer = {"error": {"code": -32601, "message": f"method not found: {message['method']}"}}
        self._send({"id": message["id"], **answer})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"), ensure_ascii=False)
        self._stdin.write(line.encode() + b"\n")
        self._stdin.flush()


def tee(recording: Path, command: list[str]) -> list[str]:
    """Return the command that runs an agent and records it."""
    return [sys.executable, stdio_tee.__file__, str(recording), *command]


def record_agent(name: str, scratch: Path, recording: Path) -> dict[str, str]:
    """Record an agent; return what is to be replaced in the recording."""
    project = scratch / "project"
    project.mkdir()
    with ModelStub() as model:
        command = command_of(name, scratch / "home", model.url)
        with subprocess.Popen(
            tee(recording, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=project,
            start_new_session=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                Driver(process.stdin, process.stdout).talk(str(project), _CALLS[name])
            finally:
                os.killpg(process.pid, signal.SIGKILL)  # not all of them end with their input
        return {
            str(project): "/project",
            str(scratch): "/scratch",
            model.url: "http://model",
            model.url.removeprefix("http://"): "model",
            str(installed()): "/node_modules",
        }


async def record_python_sdk(recording: Path, cwd: Path) -> None:
    """Record the Python SDK's client."""
    program, *arguments = tee(recording, ECHO)
    async with (
        spawn_stdio_transport(program, *arguments, cwd=cwd) as (reader, writer, _),
        SdkClient().connected(writer, reader) as agent,
    ):
        await begin(agent)
        await converse(agent, str(cwd))


def record_typescript_sdk(recording: Path, cwd: Path) -> None:
    """Record the TypeScript SDK's client."""
    script = GOLDEN.parent / "typescript_client" / "client.mjs"
    command = ["node", str(script), "stdio", *tee(recording, ECHO)]
    subprocess.run(command, cwd=cwd, check=True, timeout=60, stdout=subprocess.DEVNULL)


def main() -> None:
    """Record everything."""
    GOLDEN.mkdir(exist_ok=True)
    for name in (*NAMES, "python_sdk", "typescript_sdk"):
        recording = GOLDEN / f"{name}.jsonl"
        with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            scratch = Path(directory)
            places = {directory: "/project"}
            if name in NAMES:
                places = record_agent(name, scratch, recording)
            elif name == "python_sdk":
                anyio.run(record_python_sdk, recording, scratch)
            else:
                record_typescript_sdk(recording, scratch)
        recording.write_text("".join(cleaned(line, places) for line in recording.read_text().splitlines()))


def cleaned(line: str, places: Mapping[str, str]) -> str:
    """Return a line of a recording without the machine's places, and with long texts cut; else byte for byte."""
    spoken = json.loads(line)
    raw = _LONG.sub(r'"\1 ..."', spoken["line"])
    for place, replacement in places.items():
        raw = raw.replace(place, replacement)
    json.loads(raw)
    return json.dumps({**spoken, "line": raw}) + "\n"


if __name__ == "__main__":
    main()
