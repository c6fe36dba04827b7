"""What a client of the relay protocol says and waits for."""

from __future__ import annotations

import json
from typing import Any, Self

from support.raw_websocket import RawWebSocket
from support.servers import Server


class Refusal(Exception):
    """The relay answered with an error."""


class Talker:
    """One client with one connection."""

    def __init__(self, server: Server) -> None:
        self.socket = RawWebSocket(server.url, headers=server.headers)

    def __enter__(self) -> Self:
        try:
            self.wait_for("connection:established")
        except BaseException:
            self.socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"version": "1.0", "type": kind, **fields}).encode())

    def wait_for(self, kind: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self.socket.receive())
            if message["type"] == kind:
                return message
            if message["type"] == "error":
                raise Refusal(message["error"]["message"])

    def create(self, role: str, **fields: Any) -> str:
        """Create a session, wait until its agent takes prompts, and return its id."""
        self.say("session:create", agentId=role, **fields)
        session_id: str = self.wait_for("session:ready")["sessionId"]
        return session_id

    def prompt(self, session_id: str, text: str) -> dict[str, Any]:
        """Say something and wait for the end of the turn."""
        self.say("agent:message", sessionId=session_id, content=text)
        return self.wait_for("agent:response")

    def stop(self, session_id: str) -> None:
        self.say("session:stop", sessionId=session_id)
        self.wait_for("session:terminated")
