"""What an ACP client says over a WebSocket, as thin as can be: the same to relaykit and to any other bridge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from support.raw_websocket import RawWebSocket

_STOP = b'"stopReason"'


class AcpTalker:
    """One connection that has said ``initialize``."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.socket = RawWebSocket(url, headers=headers)
        self._next_id = 0
        try:
            self.ask("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a request."""
        self._next_id += 1
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        self.socket.send(json.dumps(message).encode())
        while "method" in (answer := json.loads(self.socket.receive())) or answer["id"] != self._next_id:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def new_session(self) -> str:
        """Open a session, and return its id."""
        session_id: str = self.ask("session/new", {"cwd": "/", "mcpServers": []})["sessionId"]
        return session_id

    def prompt_message(self, session_id: str, text: str) -> bytes:
        """Return a prompt to be sent as often as one likes: its id is always the same."""
        params = {"sessionId": session_id, "prompt": [{"type": "text", "text": text}]}
        return json.dumps({"jsonrpc": "2.0", "id": 0, "method": "session/prompt", "params": params}).encode()

    def turn(self, prompt: bytes) -> None:
        """Send a prompt, and wait for the end of its turn."""
        self.socket.send(prompt)
        while _STOP not in self.socket.receive():
            pass

    def turn_with_updates(self, prompt: bytes) -> int:
        """Send a prompt, and return how many messages came until the end of its turn, that one included."""
        self.socket.send(prompt)
        received = 0
        while True:
            batch = self.socket.receive_batch()
            received += len(batch)
            if _STOP in batch[-1]:
                return received
