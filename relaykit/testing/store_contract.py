"""StoreContract: the tests that every `Store` must pass.

A plugin's test suite needs no more than this, and has pytest and anyio's pytest plugin at hand::

    pytest_plugins = ["relaykit.testing.fixtures"]  # in conftest.py, for readable failures


    class TestSqliteStore(StoreContract):
        @pytest.fixture
        async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
            async with open_sqlite_store(tmp_path / "sessions.db") as store:
                yield store

They run on every event loop that anyio's plugin offers.
"""
# ruff: noqa: S101, PLR2004, D102 -- a test suite: it asserts, and its tests' names say what they show

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest

from relaykit.errors import DuplicateRole, DuplicateSession, StaleVersion
from relaykit.session import Activity, Cause, Session, SessionFilter, SessionState, Store
from relaykit.testing.interruption import Interruption
from relaykit.testing.sessions import CREATED_AT, make_session, next_version

__all__ = ["StoreContract", "make_session", "next_version"]

_ALL = SessionFilter()


class StoreContract:
    """What holds for every store. Override `store`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def store(self) -> Store:
        """Return an empty store, open while the test runs. May be an async generator."""
        raise NotImplementedError("a subclass of StoreContract overrides the fixture `store`")

    # ------------------------------------------------------------ create and get

    async def test_what_was_created_is_returned_whole(self, store: Store) -> None:
        session = make_session(
            resources={"acp": {"pid": 7, "argv": ["a", "b"], "env": {"k": None}, "ok": True, "load": 0.5}},
            worktree_dir="/work/ünïcode",
            ended_at=CREATED_AT + timedelta(microseconds=1),
        )
        await store.create(session)
        assert await store.get("s1") == session
        assert await store.get_by_role("role-s1", owner="local", project="shop") == session

    async def test_the_unknown_is_none(self, store: Store) -> None:
        await store.create(make_session())
        assert await store.get("nobody") is None
        assert await store.get_by_role("role-s1", owner="other", project="shop") is None
        assert await store.get_by_role("role-s1", owner="local", project="other") is None
        assert await store.get_by_role("nobody", owner="local", project="shop") is None

    async def test_creating_the_equal_session_again_does_nothing(self, store: Store) -> None:
        await store.create(make_session())
        await store.create(make_session())
        assert await store.count(_ALL) == 1

    async def test_an_id_is_taken_once(self, store: Store) -> None:
        first = make_session()
        await store.create(first)
        with pytest.raises(DuplicateSession) as caught:
            await store.create(make_session(agent_id="another-role"))
        assert caught.value.session_id == "s1"
        assert await store.get("s1") == first
        assert await store.get_by_role("another-role", owner="local", project="shop") is None

    async def test_a_role_is_taken_once(self, store: Store) -> None:
        await store.create(make_session("s1", agent_id="auth"))
        with pytest.raises(DuplicateRole) as caught:
            await store.create(make_session("s2", agent_id="auth"))
        error = caught.value
        assert (error.agent_id, error.owner, error.project, error.session_id) == (
            "auth",
            "local",
            "shop",
            "s1",
        )
        assert await store.get("s2") is None
        assert await store.count(_ALL) == 1

    async def test_owners_and_projects_have_roles_of_their_own(self, store: Store) -> None:
        await store.create(make_session("s1", agent_id="auth"))
        await store.create(make_session("s2", agent_id="auth", owner="ann"))
        await store.create(make_session("s3", agent_id="auth", project="site"))
        found = await store.get_by_role("auth", owner="ann", project="shop")
        assert found is not None
        assert found.id == "s2"

    # ------------------------------------------------------------ nothing is aliased

    async def test_what_was_handed_in_can_change_no_more(self, store: Store) -> None:
        facts: dict[str, Any] = {"pids": [1]}
        resources = {"acp": facts}
        await store.create(make_session(resources=resources))
        facts["pids"].append(2)
        resources["git"] = {}
        stored = await store.get("s1")
        assert stored is not None
        assert stored.resources == {"acp": {"pids": (1,)}}

        facts = {"pids": [3]}
        await store.save(next_version(stored, resources={"acp": facts}), expected_version=1)
        facts["pids"].append(4)
        stored = await store.get("s1")
        assert stored is not None
        assert stored.resources == {"acp": {"pids": (3,)}}

    async def test_a_session_that_was_handed_out_stays_as_it_was(self, store: Store) -> None:
        session = make_session()
        await store.create(session)
        before = await store.get("s1")
        await store.save(next_version(session, state=SessionState.SPAWNING), expected_version=1)
        await store.touch({"s1": Activity(CREATED_AT, 9)})
        await store.delete("s1")
        assert before == session

    # ------------------------------------------------------------ save

    async def test_save_replaces_the_expected_version(self, store: Store) -> None:
        session = make_session()
        await store.create(session)
        later = next_version(
            session,
            state=SessionState.TERMINATING,
            worktree_dir="/work/s1",
            cause=Cause.SPAWN_FAILED,
            reason="it would not start",
            resources={"git": {"branch": "relaykit/s1"}},
            activity=Activity(CREATED_AT + timedelta(seconds=1.5), 3),
        )
        await store.save(later, expected_version=1)
        assert await store.get("s1") == later
        assert await store.get_by_role("role-s1", owner="local", project="shop") == later
        assert list(await store.list(_ALL)) == [later]

    async def test_save_over_another_version_is_refused(self, store: Store) -> None:
        session = make_session()
        await store.create(session)
        second = next_version(session, state=SessionState.SPAWNING)
        await store.save(second, expected_version=1)
        with pytest.raises(StaleVersion) as caught:
            await store.save(next_version(session, state=SessionState.TERMINATING), expected_version=1)
        assert (caught.value.session_id, caught.value.expected, caught.value.found) == ("s1", 1, 2)
        assert await store.get("s1") == second

    async def test_save_of_what_is_absent_is_refused(self, store: Store) -> None:
        with pytest.raises(StaleVersion) as caught:
            await store.save(next_version(make_session()), expected_version=1)
        assert (caught.value.session_id, caught.value.expected, caught.value.found) == ("s1", 1, None)
        assert await store.count(_ALL) == 0

    async def test_saving_the_equal_session_again_does_nothing(self, store: Store) -> None:
        session = make_session()
        await store.create(session)
        second = next_version(session, state=SessionState.SPAWNING)
        await store.save(second, expected_version=1)
        await store.save(second, expected_version=1)
        assert await store.get("s1") == second

    # ------------------------------------------------------------ touch

    async def test_touch_writes_activity_and_no_version(self, store: Store) -> None:
        first, second = make_session("s1"), make_session("s2")
        await store.create(first)
        await store.create(second)
        heard = Activity(CREATED_AT + timedelta(minutes=1), 5)
        await store.touch({"s1": heard})
        assert await store.get("s1") == first.with_activity(heard)
        assert await store.get("s2") == second
        await store.save(next_version(first, activity=heard), expected_version=1)

    async def test_touch_ignores_the_absent(self, store: Store) -> None:
        await store.create(make_session())
        heard = Activity(CREATED_AT, 1)
        await store.touch({"nobody": heard, "s1": heard})
        await store.touch({})
        assert await store.get("nobody") is None
        assert await store.get("s1") == make_session(activity=heard)

    # ------------------------------------------------------------ list and count

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (SessionFilter(), ["s1", "s2", "s3", "s4"]),
            (SessionFilter(state=SessionState.CREATED), ["s1", "s4"]),
            (SessionFilter(state=SessionState.ACTIVE), ["s2", "s3"]),
            (SessionFilter(state=SessionState.CLEANED), []),
            (SessionFilter(agent_id="auth"), ["s1", "s3"]),
            (SessionFilter(owner="ann"), ["s3"]),
            (SessionFilter(project="site"), ["s4"]),
            (SessionFilter(node="n2"), ["s2"]),
            (SessionFilter(state=SessionState.ACTIVE, agent_id="auth"), ["s3"]),
            (SessionFilter(state=SessionState.CREATED, owner="ann"), []),
        ],
        ids=repr,
    )
    async def test_filters(self, store: Store, where: SessionFilter, expected: list[str]) -> None:
        await store.create(make_session("s3", agent_id="auth", owner="ann"))
        await store.create(make_session("s1", agent_id="auth"))
        await store.create(make_session("s4", project="site"))
        await store.create(make_session("s2", node="n2"))
        for session_id in ("s2", "s3"):
            session = await store.get(session_id)
            assert session is not None
            await store.save(next_version(session, state=SessionState.ACTIVE), expected_version=1)
        assert _ids(await store.list(where)) == expected
        assert await store.count(where) == len(expected)

    async def test_pages_follow_each_other_without_a_gap(self, store: Store) -> None:
        ids = [f"s{number:02}" for number in range(25)]
        for session_id in reversed(ids):
            await store.create(make_session(session_id))
        pages: list[list[str]] = []
        after: str | None = ""
        while len(pages) < 4 and after is not None:  # and not for ever, whatever the store does
            page = _ids(await store.list(_ALL, after=after, limit=10))
            pages.append(page)
            after = page[-1] if len(page) == 10 else None
        assert pages == [ids[:10], ids[10:20], ids[20:]]
        assert _ids(await store.list(_ALL, after="s24")) == []
        assert _ids(await store.list(_ALL, after="s2", limit=2)) == ["s20", "s21"]

    async def test_a_page_is_full_though_few_match(self, store: Store) -> None:
        for number in range(20):
            await store.create(make_session(f"s{number:02}", node=f"n{number % 4}"))
        where = SessionFilter(node="n3")
        assert _ids(await store.list(where, limit=2)) == ["s03", "s07"]
        assert _ids(await store.list(where, after="s07", limit=2)) == ["s11", "s15"]

    async def test_states_are_followed(self, store: Store) -> None:
        """Each session is listed and counted under the state that was saved last, and under no other."""
        session = make_session()
        await store.create(session)
        for state in (SessionState.SPAWNING, SessionState.ACTIVE, SessionState.TERMINATING):
            session = next_version(session, state=state)
            await store.save(session, expected_version=session.version - 1)
            assert {other: await store.count(SessionFilter(state=other)) for other in SessionState} == {
                other: int(other is state) for other in SessionState
            }
            assert list(await store.list(SessionFilter(state=state))) == [session]
        await store.delete("s1")
        assert [await store.count(SessionFilter(state=state)) for state in SessionState] == [0] * 5

    # ------------------------------------------------------------ delete

    async def test_delete_forgets_and_frees_the_role(self, store: Store) -> None:
        await store.create(make_session("s1", agent_id="auth"))
        await store.create(make_session("s2"))
        await store.delete("s1")
        assert await store.get("s1") is None
        assert await store.get_by_role("auth", owner="local", project="shop") is None
        assert _ids(await store.list(_ALL)) == ["s2"]
        await store.create(make_session("s3", agent_id="auth"))
        await store.create(make_session("s1"))

    async def test_delete_of_the_absent_does_nothing(self, store: Store) -> None:
        await store.create(make_session())
        await store.delete("nobody")
        await store.delete("s1")
        await store.delete("s1")
        assert await store.count(_ALL) == 0

    # ------------------------------------------------------------ many at once

    async def test_of_concurrent_creates_of_a_role_one_wins(self, store: Store) -> None:
        won: list[str] = []
        lost: list[str] = []

        async def create(session_id: str) -> None:
            try:
                await store.create(make_session(session_id, agent_id="auth"))
            except DuplicateRole as error:
                lost.append(error.session_id)
            else:
                won.append(session_id)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(create, f"s{number}")
        assert len(won) == 1
        assert lost == won * 19
        assert _ids(await store.list(_ALL)) == won

    async def test_of_concurrent_saves_of_a_version_one_wins(self, store: Store) -> None:
        session = make_session()
        await store.create(session)
        won: list[Session] = []
        found: list[int | None] = []

        async def save(number: int) -> None:
            mine = next_version(session, reason=f"writer {number}")
            try:
                await store.save(mine, expected_version=1)
            except StaleVersion as error:
                found.append(error.found)
            else:
                won.append(mine)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(save, number)
        assert len(won) == 1
        assert found == [2] * 19
        assert await store.get("s1") == won[0]

    # ------------------------------------------------------------ cancelled

    async def test_a_cancelled_create_happened_or_did_not(self, store: Store) -> None:
        for at in range(1, 1000):
            session = make_session(f"s{at}", agent_id="auth")
            with anyio.CancelScope() as scope:
                call = Interruption(store.create(session), at=at, cancel=scope.cancel)
                await call
            held = await store.get(session.id)
            assert held in (None, session) if scope.cancelled_caught else held == session
            assert await store.get_by_role("auth", owner="local", project="shop") == held
            assert list(await store.list(_ALL)) == ([] if held is None else [session])
            await store.create(session)
            await store.delete(session.id)
            if not call.happened:
                return
        pytest.fail("a create is suspended a thousand times")

    async def test_a_cancelled_save_happened_or_did_not(self, store: Store) -> None:
        session = make_session()
        await store.create(session)
        for at in range(1, 1000):
            later = next_version(session, state=SessionState.ACTIVE, reason=f"try {at}")
            with anyio.CancelScope() as scope:
                call = Interruption(
                    store.save(later, expected_version=session.version), at=at, cancel=scope.cancel
                )
                await call
            held = await store.get("s1")
            assert held in (session, later) if scope.cancelled_caught else held == later
            assert held is not None
            assert await store.count(SessionFilter(state=held.state)) == 1
            await store.save(later, expected_version=session.version)
            assert await store.get("s1") == later
            session = later
            if not call.happened:
                return
        pytest.fail("a save is suspended a thousand times")

    async def test_a_cancelled_delete_happened_or_did_not(self, store: Store) -> None:
        for at in range(1, 1000):
            session = make_session(f"s{at}", agent_id="auth")
            await store.create(session)
            with anyio.CancelScope() as scope:
                call = Interruption(store.delete(session.id), at=at, cancel=scope.cancel)
                await call
            held = await store.get(session.id)
            assert held in (None, session) if scope.cancelled_caught else held is None
            assert await store.count(_ALL) == (0 if held is None else 1)
            await store.delete(session.id)
            assert await store.count(_ALL) == 0
            if not call.happened:
                return
        pytest.fail("a delete is suspended a thousand times")


def _ids(sessions: Sequence[Session]) -> list[str]:
    return [session.id for session in sessions]
