"""Agents within the relay's own process, which say what the test has them say, on either event loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentLauncher, AgentSpec, LauncherFactory, Record, ToolUse
from relaykit.conversation import Frame, Kind
from relaykit.hooks import hookimpl
from relaykit.session import Session
from relaykit.session.model import Json

NAME = "told"
"""Of the agent, and of what launches it."""

TABLE = f'[agents.{NAME}]\ncommand = ["{NAME}"]\nlauncher = "{NAME}"\n'
"""The settings."""


class ToldAgent:
    """One life of an agent. What it is told to say is recorded, unless it is closed before the relay has heard it."""

    def __init__(self) -> None:
        self.turn = ""
        """The turn that runs, as far as it knows."""
        self._frames: list[Frame] = []
        self._closed = False
        self._changed = anyio.Event()

    @property
    def opened(self) -> Json:
        return {}

    @property
    def needs_login(self) -> bool:
        return False

    def say(self, *frames: Frame) -> None:
        """Say something."""
        self._frames += frames
        self._wake()

    def end_turn(self) -> None:
        """End the turn that runs."""
        ref, self.turn = self.turn, ""
        self.say(Frame(Kind.TURN_END, b'{"stopReason":"end_turn"}', ref, "session/prompt"))

    async def send(self, frame: Frame, /) -> None:
        self.send_nowait(frame)

    def send_nowait(self, frame: Frame, /) -> bool:
        if frame.kind is Kind.PROMPT:
            self.turn = frame.ref
        return True

    async def receive(self) -> Sequence[Frame]:
        while not self._frames:
            if self._closed:
                raise anyio.EndOfStream
            await self._changed.wait()
        frames, self._frames = self._frames, []
        return frames

    def farewell(self) -> str:
        return "it was closed"

    async def aclose(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class ToldLauncher:
    """Starts them, and lets any session sleep."""

    def __init__(self) -> None:
        self.agent: ToldAgent | None = None
        """The one that was started last."""

    async def profile(self, _spec: AgentSpec, /) -> Json:
        return {"protocolVersion": 1, "agentCapabilities": {}}

    async def launch(
        self, _spec: AgentSpec, _session: Session, _cwd: Path, _record: Record, /, *, resume: bool = False
    ) -> Agent:
        del resume
        self.agent = ToldAgent()
        return self.agent

    def can_resume(self, _session: Session, /) -> bool:
        return True

    def decline(self, request: Frame, /, *, cancelled: bool) -> Frame:
        del cancelled
        return Frame(Kind.DECISION, b'{"outcome":{"outcome":"cancelled"}}', request.ref, request.method)

    def allow(self, _request: Frame, /) -> Frame | None:
        return None

    def tool_use(self, _request: Frame, /) -> ToolUse | None:
        return None

    @hookimpl
    def relaykit_register_launchers(self) -> Mapping[str, LauncherFactory]:
        """Offer itself."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[AgentLauncher]:
            yield self

        return MappingProxyType({NAME: opened})


def update(text: str) -> Frame:
    """Return an update that says this."""
    content: Mapping[str, Any] = {
        "sessionUpdate": "agent_message_chunk",
        "content": {"type": "text", "text": text},
    }
    return Frame(Kind.UPDATE, json.dumps({"update": content}).encode(), method="session/update")
