"""Parts that break what their contract says, each in its own way. Run by test_testing_broken.py alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio.lowlevel
import pytest

from relaykit.agent import Agent, AgentLauncher, AgentSpec, DirectoryWorkspace, LauncherFactory, Record, Say
from relaykit.conversation import Frame, Journal, MemoryJournal
from relaykit.hooks import StorageFactory
from relaykit.session import (
    CleanerResult,
    Handle,
    MemoryStore,
    Outcome,
    Phase,
    Session,
    SessionFilter,
    Store,
)
from relaykit.testing import (
    Acquire,
    CleanerContract,
    FakeAgent,
    FakeLauncher,
    IsGone,
    IsReleased,
    LauncherContract,
    StorageContract,
    StoreContract,
    WorkspaceContract,
    make_session,
)

# ---------------------------------------------------------------- cleaners


class Files:
    """A cleaner that removes the file that a session has recorded."""

    name = "files"
    phase = Phase.AFTER

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        del handle
        facts = session.resources.get(self.name)
        if facts is None:
            return CleanerResult(self.name, Outcome.SKIPPED)
        await anyio.lowlevel.checkpoint()
        return self.remove(Path(facts["path"]))

    def remove(self, path: Path) -> CleanerResult:
        path.unlink(missing_ok=True)
        return CleanerResult(self.name, Outcome.DONE)


class FilesContract(CleanerContract):
    kind: type[Files] = Files

    @pytest.fixture
    def cleaner(self) -> Files:
        return self.kind()

    @pytest.fixture
    def acquire(self, tmp_path: Path) -> Acquire:
        numbers = count(1)

        async def acquire() -> Session:
            path = tmp_path / f"s{next(numbers)}"
            path.touch()
            return make_session(path.name, resources={"files": {"path": str(path)}})

        return acquire

    @pytest.fixture
    def is_released(self) -> IsReleased:
        async def is_released(session: Session) -> bool:
            return not await anyio.Path(session.resources["files"]["path"]).exists()

        return is_released


class TestSound(FilesContract):
    pass


class TestDoesNothing(FilesContract):
    class kind(Files):  # noqa: N801
        def remove(self, path: Path) -> CleanerResult:
            del path
            return CleanerResult(self.name, Outcome.DONE)


class TestRunsOnce(FilesContract):
    class kind(Files):  # noqa: N801
        def remove(self, path: Path) -> CleanerResult:
            path.unlink()
            return CleanerResult(self.name, Outcome.DONE)


class TestTakesAll(FilesContract):
    class kind(Files):  # noqa: N801
        def remove(self, path: Path) -> CleanerResult:
            for each in path.parent.iterdir():
                each.unlink()
            return CleanerResult(self.name, Outcome.DONE)


class TestNeedsTheHandle(FilesContract):
    class kind(Files):  # noqa: N801
        async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
            if handle is None:
                return CleanerResult(self.name, Outcome.SKIPPED)
            return await super().clean(session, handle)


# ---------------------------------------------------------------- workspaces


class Eager(DirectoryWorkspace):
    """Makes the directory, and records it then."""

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        path = await super().prepare(session, _forget, say)
        await record({"path": str(path)})
        return path


class Shared(DirectoryWorkspace):
    """Gives every role the same."""

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        return await super().prepare(session.evolve(agent_id="all"), record, say)


async def _forget(facts: object) -> None:
    del facts


class TestEager(WorkspaceContract):
    @pytest.fixture
    def workspace(self, tmp_path: Path) -> DirectoryWorkspace:
        return Eager(tmp_path / "directories")


class TestShared(WorkspaceContract):
    @pytest.fixture
    def workspace(self, tmp_path: Path) -> DirectoryWorkspace:
        return Shared(tmp_path / "directories")


# ---------------------------------------------------------------- launchers


class FakeContract(LauncherContract):
    @pytest.fixture
    def fake(self) -> FakeLauncher:
        return FakeLauncher()

    @pytest.fixture
    def open_launcher(self, fake: FakeLauncher) -> LauncherFactory:
        return fake.open

    @pytest.fixture
    def spec(self) -> AgentSpec:
        return AgentSpec(name="fake", command=("fake",), launcher="fake")

    @pytest.fixture
    def is_gone(self, fake: FakeLauncher) -> IsGone:
        async def is_gone(session: Session) -> bool:
            await anyio.lowlevel.checkpoint()
            return all(agent.closed for agent in fake.agents if agent.session.id == session.id)

        return is_gone


class Late(FakeLauncher):
    """Records the agent once it has been started, and lets go of it if that cannot be done."""

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        agent = await super().launch(spec, session, cwd, _forget, resume=resume)
        await record({"cwd": str(cwd)})
        return agent

    def allow(self, request: Frame, /) -> Frame | None:
        return self.decline(request, cancelled=False)


class TestLate(FakeContract):
    @pytest.fixture
    def fake(self) -> FakeLauncher:
        return Late()


class TestLeavesThem(FakeContract):
    @pytest.fixture
    def open_launcher(self, fake: FakeLauncher) -> LauncherFactory:
        @asynccontextmanager
        async def opened() -> AsyncIterator[AgentLauncher]:
            async with fake.open() as launcher:
                yield launcher
                fake.agents, left = [], fake.agents
                for agent in left:
                    agent._end("it was left")
            fake.agents = left

        return opened


class HasNothingMoreToSay(FakeAgent):
    """Says nothing where its end is to be said."""

    async def receive(self) -> Sequence[Frame]:
        return () if self.closed else await super().receive()


class Silent(FakeLauncher):
    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        agent = await super().launch(spec, session, cwd, record, resume=resume)
        agent.__class__ = HasNothingMoreToSay
        return agent


class TestSilent(FakeContract):
    @pytest.fixture
    def fake(self) -> FakeLauncher:
        return Silent()


# ---------------------------------------------------------------- storages


class PagesForEver(MemoryStore):
    """Begins each page anew."""

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        del after
        return await super().list(where, limit=limit)


class TestPagesForEver(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return PagesForEver()


class Boastful(MemoryStore):
    """Says that it keeps what it does not."""

    durable = True


class TestForgetsAll(StorageContract):
    @pytest.fixture
    def open_storage(self) -> StorageFactory:
        @asynccontextmanager
        async def open_it() -> AsyncIterator[tuple[Store, Journal]]:
            yield Boastful(), MemoryJournal()

        return open_it


class TestForgetsWhatWasSaid(StorageContract):
    @pytest.fixture
    def open_storage(self) -> StorageFactory:
        store = Boastful()

        @asynccontextmanager
        async def open_it() -> AsyncIterator[tuple[Store, Journal]]:
            yield store, MemoryJournal()

        return open_it


class TestKeepsNothingAndSaysSo(StorageContract):
    @pytest.fixture
    def open_storage(self) -> StorageFactory:
        @asynccontextmanager
        async def open_it() -> AsyncIterator[tuple[Store, Journal]]:
            yield MemoryStore(), MemoryJournal()

        return open_it


class TestOpensOnce(StorageContract):
    @pytest.fixture
    def open_storage(self) -> StorageFactory:
        stores = [MemoryStore()]

        @asynccontextmanager
        async def open_it() -> AsyncIterator[tuple[Store, Journal]]:
            yield stores.pop(), MemoryJournal()

        return open_it
