"""The parts: whole implementations of each contract, as one may write them from their documentation alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from relaykit.agent import Agent, AgentLauncher, AgentSpec, Record, Say, ToolUse
from relaykit.conversation import Frame, Journal, Kind, MemoryJournal
from relaykit.errors import AgentGone, ProgramNotFound, WorkspaceError
from relaykit.session import (
    Activity,
    CleanerResult,
    Handle,
    Json,
    MemoryStore,
    Outcome,
    Phase,
    Session,
    SessionFilter,
    Store,
    decode_session,
    encode_session,
)

NAME = "attic"


class Shelf:
    """A store that keeps sessions as text, over one that does the thinking."""

    durable = False

    def __init__(self) -> None:
        self._store = MemoryStore()

    async def create(self, session: Session, /) -> None:
        await self._store.create(decode_session(encode_session(session)))

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        await self._store.save(decode_session(encode_session(session)), expected_version=expected_version)

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        await self._store.touch(activity)

    async def get(self, session_id: str, /) -> Session | None:
        return await self._store.get(session_id)

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        return await self._store.get_by_role(agent_id, owner=owner, project=project)

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        return await self._store.list(where, after=after, limit=limit)

    async def count(self, where: SessionFilter, /) -> int:
        return await self._store.count(where)

    async def delete(self, session_id: str, /) -> None:
        await self._store.delete(session_id)


@asynccontextmanager
async def open_storage() -> AsyncIterator[tuple[Store, Journal]]:
    yield Shelf(), MemoryJournal()


class Boxes:
    """A directory per role."""

    def __init__(self, root: Path, projects: Mapping[str, Path]) -> None:
        self._root = root
        self._projects = projects

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        if session.project not in self._projects:
            raise WorkspaceError(f"there is no project {session.project!r}")
        path = self._root / session.agent_id
        await record({"path": str(path)})
        await anyio.Path(path).mkdir(parents=True, exist_ok=True)
        return path


class Sweeper:
    """Removes them."""

    name = NAME
    phase = Phase.WORKSPACE

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        facts = session.resources.get(NAME)
        if facts is None or "path" not in facts:
            return CleanerResult(self.name, Outcome.SKIPPED, "there was no box")
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(facts["path"], ignore_errors=True))
        return CleanerResult(self.name, Outcome.DONE)


class Parrot:
    """An agent that says what it is told."""

    needs_login = False

    def __init__(self, session_id: str) -> None:
        self.opened: Json = {}
        self.session_id = session_id
        self.closed = False
        self._frames: list[Frame] = []
        self._changed = anyio.Event()

    async def send(self, frame: Frame, /) -> None:
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise AgentGone("it flew away", agent=NAME)
        if frame.kind is Kind.PROMPT:
            text = json.loads(frame.body)["prompt"][0]["text"]
            if text == "delete":
                self._say(
                    Frame(Kind.REQUEST, b'{"toolCall":{"kind":"delete"}}', "q1", "session/request_permission")
                )
            content = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
            self._say(Frame(Kind.UPDATE, json.dumps({"update": content}).encode(), method="session/update"))
            self._say(Frame(Kind.TURN_END, b'{"stopReason":"end_turn"}', frame.ref, "session/prompt"))
        elif frame.kind is Kind.CALL:
            self._say(Frame(Kind.RESULT, b"{}", frame.ref, frame.method))

    def send_nowait(self, frame: Frame, /) -> bool:
        return False

    async def receive(self) -> Sequence[Frame]:
        while not self._frames:
            if self.closed:
                raise anyio.EndOfStream
            await self._changed.wait()
        frames, self._frames = self._frames, []
        return frames

    def farewell(self) -> str:
        return "it flew away" if self.closed else "it sits there"

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True
        self._wake()

    def _say(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class Perch:
    """Starts parrots."""

    def __init__(self) -> None:
        self.parrots: list[Parrot] = []

    async def profile(self, spec: AgentSpec, /) -> Json:
        return {"protocolVersion": 1, "agentCapabilities": {}, "name": spec.name}

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        await record({"cwd": str(cwd)})
        if not spec.command:
            raise ProgramNotFound("", agent=spec.name)
        parrot = Parrot(session.id)
        self.parrots.append(parrot)
        return parrot

    def can_resume(self, session: Session, /) -> bool:
        return False

    def decline(self, request: Frame, /, *, cancelled: bool) -> Frame:
        return Frame(Kind.DECISION, b'{"outcome":{"outcome":"cancelled"}}', request.ref, request.method)

    def allow(self, request: Frame, /) -> Frame | None:
        if self.tool_use(request) is None:
            return None
        return Frame(
            Kind.DECISION, b'{"outcome":{"outcome":"selected","optionId":"yes"}}', request.ref, request.method
        )

    def tool_use(self, request: Frame, /) -> ToolUse | None:
        try:
            tool = json.loads(request.body)["toolCall"]
        except ValueError:
            return None
        return ToolUse(tool["kind"], tuple(place["path"] for place in tool.get("locations", ())))


PERCHES: list[Perch] = []
"""Those that were opened: for tests."""


@asynccontextmanager
async def open_launcher() -> AsyncIterator[AgentLauncher]:
    perch = Perch()
    PERCHES.append(perch)
    try:
        yield perch
    finally:
        with anyio.CancelScope(shield=True):
            for parrot in perch.parrots:
                await parrot.aclose()
