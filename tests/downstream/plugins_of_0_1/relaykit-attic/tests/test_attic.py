"""The parts, held to relaykit's contracts; and a relay that is made of nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from relaykit_attic.parts import PERCHES, Boxes, Sweeper, open_launcher, open_storage

from relaykit.agent import AgentSpec, LauncherFactory, Workspace
from relaykit.conversation import Journal
from relaykit.errors import Refused
from relaykit.session import Cleaner, Session, Store
from relaykit.testing import (
    Acquire,
    CleanerContract,
    IsGone,
    IsReleased,
    JournalContract,
    LauncherContract,
    RecordingHooks,
    StoreContract,
    WorkspaceContract,
    assert_transitions,
    installed_plugin,
    make_session,
    open_talk,
    open_test_relay,
)

TOML = """
[relay]
storage = "attic"
workspace = "attic"
default_agent = "attic"
"""


class TestShelf(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with open_storage() as (store, _):
            yield store


class TestJournal(JournalContract):
    @pytest.fixture
    async def journal(self) -> AsyncIterator[Journal]:
        async with open_storage() as (_, journal):
            yield journal


class TestBoxes(WorkspaceContract):
    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Workspace:
        return Boxes(tmp_path / "boxes", {"shop": tmp_path})

    @pytest.fixture
    def impossible(self) -> Session:
        return make_session(project="unknown")


class TestSweeper(CleanerContract):
    @pytest.fixture
    def cleaner(self) -> Cleaner:
        return Sweeper()

    @pytest.fixture
    def acquire(self, tmp_path: Path) -> Acquire:
        made: list[Path] = []

        async def acquire() -> Session:
            path = tmp_path / f"box{len(made)}"
            path.mkdir()
            made.append(path)
            return make_session(path.name, resources={"attic": {"path": str(path)}})

        return acquire

    @pytest.fixture
    def is_released(self) -> IsReleased:
        async def is_released(session: Session) -> bool:
            return not await anyio.Path(session.resources["attic"]["path"]).exists()

        return is_released


class TestPerch(LauncherContract):
    @pytest.fixture
    def open_launcher(self) -> LauncherFactory:
        return open_launcher

    @pytest.fixture
    def spec(self) -> AgentSpec:
        return AgentSpec(name="attic", command=("attic",), launcher="perch")

    @pytest.fixture
    def broken(self) -> AgentSpec:
        return AgentSpec(name="attic", command=(), launcher="perch")

    @pytest.fixture
    def is_gone(self) -> IsGone:
        async def is_gone(session: Session) -> bool:
            parrots = [parrot for perch in PERCHES for parrot in perch.parrots]
            return all(parrot.closed for parrot in parrots if parrot.session_id == session.id)

        return is_gone


@pytest.mark.anyio
async def test_a_relay_that_is_made_of_it(tmp_path: Path) -> None:
    hooks = RecordingHooks()
    plugins = {"attic": installed_plugin("attic")}
    async with open_test_relay(tmp_path, plugins=plugins, toml=TOML, hooks=hooks) as relay:
        with pytest.raises(Refused, match="no ghosts, local, in default: not even as attic"):
            await relay.create("ghost")
        async with open_talk(relay, "auth", client_id="me") as talk:
            assert (await talk.prompt("hello")).text == "hello"
            with pytest.raises(Refused, match="me frightens auth"):
                await talk.prompt("boo")
            assert (await talk.prompt("delete")).text == "delete"
            with pytest.raises(Refused, match="me may not session/set_mode of auth"):
                await relay.call(
                    talk.session_id, "session/set_mode", b'{"modeId":"haunted"}', client_id="me", ref="1"
                )
            session = await relay.require(talk.session_id)
            assert session.worktree_dir == str(tmp_path / "state" / "attic" / "auth")
            await talk.end()
        assert not await anyio.Path(session.worktree_dir).exists()
    assert_transitions(hooks, "CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED")
