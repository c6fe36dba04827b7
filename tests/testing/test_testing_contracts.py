"""The contracts over what relaykit itself brings. Those of the plugins are in the plugins' tests."""

from __future__ import annotations

from pathlib import Path

import anyio.lowlevel
import pytest

from relaykit.agent import AgentSpec, DirectoryWorkspace, InPlaceWorkspace, LauncherFactory
from relaykit.session import CloseAgent, CloseConnection, Handle, Outcome, Session
from relaykit.testing import (
    FakeConnection,
    FakeLauncher,
    IsGone,
    LauncherContract,
    WorkspaceContract,
    make_session,
)


class TestDirectoryWorkspace(WorkspaceContract):
    @pytest.fixture
    def workspace(self, tmp_path: Path) -> DirectoryWorkspace:
        return DirectoryWorkspace(tmp_path / "directories")


class TestInPlaceWorkspace(WorkspaceContract):
    @pytest.fixture
    def workspace(self, tmp_path: Path) -> InPlaceWorkspace:
        return InPlaceWorkspace({"shop": tmp_path})

    @pytest.fixture
    def impossible(self) -> Session:
        return make_session(project="another")

    @pytest.fixture
    def apart(self) -> bool:
        return False


class TestFakeLauncher(LauncherContract):
    @pytest.fixture
    def fake(self) -> FakeLauncher:
        return FakeLauncher(resumable=True)

    @pytest.fixture
    def open_launcher(self, fake: FakeLauncher) -> LauncherFactory:
        return fake.open

    @pytest.fixture
    def spec(self) -> AgentSpec:
        return AgentSpec(name="fake", command=("fake",), launcher="fake")

    @pytest.fixture
    def resumes(self) -> bool:
        return True

    @pytest.fixture
    def is_gone(self, fake: FakeLauncher) -> IsGone:
        async def is_gone(session: Session) -> bool:
            await anyio.lowlevel.checkpoint()
            return all(agent.closed for agent in fake.agents if agent.session.id == session.id)

        return is_gone


@pytest.mark.anyio
@pytest.mark.parametrize("cleaner", [CloseAgent(), CloseConnection()], ids=lambda cleaner: cleaner.name)
async def test_what_only_closes_has_nothing_to_do_without_a_handle(
    cleaner: CloseAgent | CloseConnection,
) -> None:
    """They release what is recorded nowhere: no `CleanerContract` for them."""
    assert (await cleaner.clean(make_session(), None)).outcome is Outcome.SKIPPED
    agent, connection = FakeConnection(), FakeConnection()
    handle = Handle(connection=connection, scope=anyio.CancelScope(), agent=agent)
    assert (await cleaner.clean(make_session(), handle)).outcome is Outcome.DONE
    assert agent.closed is isinstance(cleaner, CloseAgent)
    assert connection.closed is isinstance(cleaner, CloseConnection)
