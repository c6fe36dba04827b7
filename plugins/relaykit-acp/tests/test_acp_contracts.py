"""relaykit's contracts over the launcher and the cleaner, with real echo agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relaykit.agent import AgentLauncher, AgentSpec, LauncherFactory
from relaykit.session import Cleaner, Session
from relaykit.testing import Acquire, CleanerContract, IsGone, IsReleased, LauncherContract
from relaykit_acp.cleaner import AcpCleaner
from relaykit_acp.finding import ECHO
from support.acp_agents import QUICK, Recorder, echo, launcher, new_session, survivors


async def is_gone(session: Session) -> bool:
    return await survivors(session) == []


class TestAcpLauncher(LauncherContract):
    @pytest.fixture
    def open_launcher(self) -> LauncherFactory:
        return launcher

    @pytest.fixture
    def spec(self) -> AgentSpec:
        return ECHO

    @pytest.fixture
    def broken(self) -> AgentSpec:
        return echo("--exit", "7")

    @pytest.fixture
    def resumes(self) -> bool:
        return True

    @pytest.fixture
    def is_gone(self) -> IsGone:
        return is_gone


class TestAcpCleaner(CleanerContract):
    """Over agents of a launcher that still runs: it has lost them, as the relay that was before us has."""

    @pytest.fixture
    def cleaner(self) -> Cleaner:
        return AcpCleaner(QUICK)

    @pytest.fixture
    async def running(self) -> AsyncIterator[AgentLauncher]:
        async with launcher() as opened:
            yield opened

    @pytest.fixture
    def acquire(self, running: AgentLauncher, tmp_path: Path) -> Acquire:
        async def acquire() -> Session:
            session, recorder = new_session(), Recorder()
            await running.launch(ECHO, session, tmp_path, recorder)
            return session.evolve(resources={"acp": recorder.facts[-1]})

        return acquire

    @pytest.fixture
    def is_released(self) -> IsReleased:
        return is_gone
