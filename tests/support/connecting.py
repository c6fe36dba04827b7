"""An editor that has `relaykit connect` as its agent: a process, and lines on its pipes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

SECONDS = 30.0
COMMAND = (sys.executable, "-m", "relaykit", "connect")


class ConnectEditor:
    """Speaks ACP to one `relaykit connect`. Every wait has a deadline.

    :param arguments: behind ``connect``.
    """

    def __init__(self, *arguments: str, variables: Mapping[str, str]) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYKIT_")}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._stdin, self._stdout, self._stderr = (
            self.process.stdin,
            self.process.stdout,
            self.process.stderr,
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._notes: queue.Queue[bytes] = queue.Queue()
        self._listens = threading.Event()
        self._listens.set()
        self._threads = [
            threading.Thread(target=self._listen, args=(stream, lines), daemon=True)
            for stream, lines in ((self._stdout, self._lines), (self._stderr, self._notes))
        ]
        for thread in self._threads:
            thread.start()
        self._next_id = 0
        self.heard: list[dict[str, Any]] = []
        """Every message that came, in order."""

    def say(self, method: str, raw_id: int | None = None, **params: Any) -> None:
        """Send a notification, or a request with that id."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self.say_raw(message if raw_id is None else {**message, "id": raw_id})

    def say_raw(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        self._stdin.write(json.dumps(message).encode() + b"\n")
        self._stdin.flush()

    def request(self, method: str, **params: Any) -> int:
        """Send a request, and return its id."""
        self._next_id += 1
        self.say(method, self._next_id, **params)
        return self._next_id

    def hear(self) -> dict[str, Any]:
        """Return the next message."""
        line = self._lines.get(timeout=SECONDS)
        assert line, f"it ended: {self.notes()}"
        message: dict[str, Any] = json.loads(line)
        self.heard.append(message)
        return message

    def hear_answer(self, raw_id: int) -> dict[str, Any]:
        """Return the answer to a request, past everything else."""
        while "method" in (message := self.hear()) or message.get("id") != raw_id:
            pass
        return message

    def hear_call(self, method: str) -> dict[str, Any]:
        """Return the next notification or request of this method, past everything else."""
        while (message := self.hear()).get("method") != method:
            pass
        return message

    def ask(self, method: str, **params: Any) -> Any:
        """Send a request, and return its result."""
        answer = self.hear_answer(self.request(method, **params))
        assert "result" in answer, answer
        return answer["result"]

    def open_session(self) -> str:
        """Begin, and return the id of a new session."""
        self.ask("initialize", protocolVersion=1, clientCapabilities={})
        session_id: str = self.ask("session/new", cwd="/", mcpServers=[])["sessionId"]
        return session_id

    def prompt(self, session_id: str, text: str) -> int:
        """Say something to the agent, and return the request's id."""
        return self.request("session/prompt", sessionId=session_id, prompt=[{"type": "text", "text": text}])

    def chunks(self, kind: str = "agent_message_chunk") -> list[str]:
        """Return the texts of the messages of this kind that came."""
        updates = [
            message["params"]["update"] for message in self.heard if "update" in message.get("params", {})
        ]
        return [update["content"]["text"] for update in updates if update["sessionUpdate"] == kind]

    def answers(self, raw_id: int) -> int:
        """Return how many answers to this request came."""
        return sum("method" not in message and message["id"] == raw_id for message in self.heard)

    def until_note(self, text: str) -> None:
        """Wait until it says this on stderr."""
        while text not in (note := self._notes.get(timeout=SECONDS).decode()):
            assert note, "it ended"

    def notes(self) -> str:
        """Return what it has said on stderr since, once it has ended."""
        self._threads[1].join(SECONDS)
        notes = b""
        while not self._notes.empty():
            notes += self._notes.get()
        return notes.decode()

    def end_input(self) -> None:
        """Say that there is no more to come."""
        self._stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for its end, and read what it still said."""
        code = self.process.wait(SECONDS)
        for thread in self._threads:
            thread.join(SECONDS)
        while line := self._lines.get(timeout=SECONDS):
            self.heard.append(json.loads(line))
        return code

    def close(self) -> None:
        """End it, if it runs still."""
        self.resume()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        for thread in self._threads:
            thread.join(SECONDS)
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()

    def pause(self) -> None:
        """Listen no more, for now."""
        self._listens.clear()

    def resume(self) -> None:
        """Listen again."""
        self._listens.set()

    def memory(self) -> int:
        """Return the bytes that the process has in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def _listen(self, stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
        for line in stream:
            lines.put(line)
            self._listens.wait()
        lines.put(b"")


@contextmanager
def connect_editor(*arguments: str, **variables: str) -> Iterator[ConnectEditor]:
    """Start `relaykit connect` for as long as the block lasts."""
    editor = ConnectEditor(*arguments, variables=variables)
    try:
        yield editor
    finally:
        editor.close()
