"""WorkspaceContract: the tests that every `Workspace` must pass.

::

    class TestScratchWorkspace(WorkspaceContract):
        @pytest.fixture
        def workspace(self, tmp_path: Path) -> Workspace:
            return ScratchWorkspace(tmp_path / "scratch")
"""
# ruff: noqa: S101, D102 -- a test suite: it asserts, and its tests' names say what they show

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio.lowlevel
import pytest

from relaykit.agent import Record, Workspace
from relaykit.errors import WorkspaceError
from relaykit.session import Json, Session
from relaykit.testing.interruption import interruptions
from relaykit.testing.sessions import make_session

PATIENCE = 60.0
"""Seconds that one preparation may take."""


class WorkspaceContract:
    """What holds for every workspace. Override `workspace`; and the rest where it is not so."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def workspace(self) -> Workspace:
        """Return the workspace. What it makes is below `tmp_path`, or else `picture` is overridden too."""
        raise NotImplementedError("a subclass of WorkspaceContract overrides the fixture `workspace`")

    @pytest.fixture
    def session(self) -> Session:
        """Return a session that can have a directory. The tests give it other roles and ids."""
        return make_session("s1", agent_id="auth")

    @pytest.fixture
    def impossible(self) -> Session | None:
        """Return a session that can have none, as of a project that is not configured. None: there is no such thing."""
        return None

    @pytest.fixture
    def apart(self) -> bool:
        """Tell whether each role has a directory of its own."""
        return True

    @pytest.fixture
    def kept(self) -> bool:
        """Tell whether a role's next session finds what its last one has left, if no cleaner has removed it."""
        return True

    @pytest.fixture
    def picture(self, tmp_path: Path) -> Callable[[], object]:
        """Return what pictures everything that the workspace may touch, so that two moments can be compared."""
        return lambda: sorted(tmp_path.rglob("*"))

    # ------------------------------------------------------------ what it gives

    async def test_it_is_a_directory_that_is_there(self, workspace: Workspace, session: Session) -> None:
        path = await _prepare(workspace, session)
        assert path.is_absolute()
        assert path.is_dir()
        (path / "can-be-written").touch()

    async def test_what_identifies_it_is_recorded_before_it_is_made(
        self, workspace: Workspace, session: Session, picture: Callable[[], object]
    ) -> None:
        before = picture()
        recorded: list[Json] = []

        async def record(facts: Json) -> None:
            if not recorded:
                assert picture() == before
            recorded.append(facts)

        await _prepare(workspace, session, record)
        assert recorded
        assert all(json.loads(json.dumps(dict(facts))) for facts in recorded), "it is stored as JSON"

    async def test_what_cannot_be_recorded_is_not_made(
        self, workspace: Workspace, session: Session, picture: Callable[[], object]
    ) -> None:
        before = picture()

        async def record(facts: Json) -> None:
            del facts
            await anyio.lowlevel.checkpoint()
            raise OSError("the store is full")

        with pytest.raises(OSError, match="the store is full"):
            await _prepare(workspace, session, record)
        assert picture() == before

    async def test_a_session_that_can_have_none_is_told_why(
        self, workspace: Workspace, impossible: Session | None, picture: Callable[[], object]
    ) -> None:
        if impossible is None:
            pytest.skip("every session can have a directory here")
        before = picture()
        with pytest.raises(WorkspaceError) as caught:
            await _prepare(workspace, impossible)
        assert str(caught.value)
        assert picture() == before

    # ------------------------------------------------------------ roles

    async def test_roles_are_apart(self, workspace: Workspace, session: Session, *, apart: bool) -> None:
        first = await _prepare(workspace, session)
        second = await _prepare(workspace, _another(session, "s2", "db"))
        assert (first != second) is apart

    async def test_a_role_finds_again_what_it_has_left(
        self, workspace: Workspace, session: Session, *, kept: bool
    ) -> None:
        path = await _prepare(workspace, session)
        (path / "left").write_text("work")
        again = await _prepare(workspace, _another(session, "s2", session.agent_id))
        found = (again / "left").read_text() if (again / "left").exists() else None
        assert found == ("work" if kept else None)

    async def test_directories_are_prepared_at_the_same_time(
        self, workspace: Workspace, session: Session, *, apart: bool
    ) -> None:
        paths: list[Path] = []

        async def prepare(number: int) -> None:
            paths.append(await _prepare(workspace, _another(session, f"s{number}", f"role{number}")))

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(prepare, number)
        assert all(path.is_dir() for path in paths)
        assert len(set(paths)) == (len(paths) if apart else 1)

    # ------------------------------------------------------------ cancelled

    async def test_cut_off_on_its_way_it_leaves_nothing(
        self, workspace: Workspace, session: Session, picture: Callable[[], object]
    ) -> None:
        for attempt in interruptions():
            this = _another(session, f"s{attempt.at}", f"role{attempt.at}")
            before = picture()
            path = await attempt(workspace.prepare(this, _recorded, _unheard))
            if path is None:
                assert picture() == before
                path = await _prepare(workspace, this)
            assert path.is_dir()


def _another(session: Session, session_id: str, agent_id: str) -> Session:
    return session.evolve(id=session_id, agent_id=agent_id)


async def _recorded(facts: Json) -> None:
    del facts
    await anyio.lowlevel.checkpoint()


async def _unheard(text: str) -> None:
    del text


async def _prepare(workspace: Workspace, session: Session, record: Record = _recorded) -> Path:
    with anyio.fail_after(PATIENCE):
        return await workspace.prepare(session, record, _unheard)
