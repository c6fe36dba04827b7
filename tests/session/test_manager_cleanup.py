"""Cleaners: when they run, in which order, how often, and what becomes of their failures."""

from __future__ import annotations

import anyio
import pytest

from relaykit.errors import TransitionError
from relaykit.session import (
    CleanerResult,
    CleanupReport,
    Handle,
    MemoryStore,
    Outcome,
    Phase,
    Session,
    SessionFilter,
    SessionState,
)
from relaykit.testing import FakeConnection, RecordingCleaner, RecordingHooks
from support.managers import make_manager, session_in

pytestmark = pytest.mark.anyio

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState


async def fail(*_: object) -> None:
    raise OSError("device busy")


@pytest.mark.parametrize("state", [CREATED, SPAWNING, ACTIVE])
async def test_legality_comes_before_the_cleaners(state: SessionState) -> None:
    cleaner = RecordingCleaner()
    agent, connection = FakeConnection(), FakeConnection()
    async with make_manager(cleaners=[cleaner]) as manager:
        session = await session_in(state, manager, connection=connection, agent=agent)
        with pytest.raises(TransitionError) as caught:
            await manager.complete_cleanup(session.id)
        assert (caught.value.state, caught.value.event) == (state, "CLEAN")
        assert cleaner.cleaned == []
        assert not agent.closed
        assert not connection.closed
        assert await manager.get(session.id) == session


async def test_concurrent_calls_clean_once_and_share_the_report() -> None:
    started, go_on = anyio.Event(), anyio.Event()

    async def hold(*_: object) -> None:
        started.set()
        await go_on.wait()

    cleaner = RecordingCleaner(when_cleaned=hold)
    reports: list[CleanupReport] = []
    with anyio.fail_after(5):
        async with make_manager(cleaners=[cleaner]) as manager:
            session = await session_in(TERMINATING, manager)

            async def clean() -> None:
                reports.append(await manager.complete_cleanup(session.id))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(clean)
                await started.wait()
                for _ in range(9):
                    tasks.start_soon(clean)
                await anyio.wait_all_tasks_blocked()
                assert reports == []
                go_on.set()
            assert cleaner.runs_for(session.id) == 1
            assert len(reports) == 10
            assert all(report is reports[0] for report in reports)
            assert len(reports[0].results) == 3
            assert await manager.complete_cleanup(session.id) == CleanupReport()


async def test_phases_run_in_order_and_cleaners_as_given_within_one() -> None:
    log: list[tuple[str, str]] = []
    cleaners = [
        RecordingCleaner("after", Phase.AFTER, log=log),
        RecordingCleaner("workspace 1", Phase.WORKSPACE, log=log),
        RecordingCleaner("agent 1", Phase.AGENT, log=log),
        RecordingCleaner("workspace 2", Phase.WORKSPACE, log=log, outcome=Outcome.KEPT),
        RecordingCleaner("agent 2", Phase.AGENT, log=log),
    ]
    async with make_manager(cleaners=cleaners) as manager:
        session = await session_in(TERMINATING, manager)
        report = await manager.complete_cleanup(session.id)
    names = ["agent 1", "agent 2", "workspace 1", "workspace 2", "after"]
    assert log == [(name, session.id) for name in names]
    assert [result.cleaner for result in report.results] == [
        *names[:2],
        "close_agent",
        *names[2:],
        "close_connection",
    ]
    assert [result.outcome for result in report.results].count(Outcome.KEPT) == 1


async def test_failing_agent_keeps_the_workspace_and_the_session_is_cleaned_all_the_same() -> None:
    store, hooks = MemoryStore(), RecordingHooks()
    broken = RecordingCleaner("stop", Phase.AGENT, when_cleaned=fail)
    workspace = RecordingCleaner("worktree", Phase.WORKSPACE)
    after = RecordingCleaner("after", Phase.AFTER)
    async with make_manager(store=store, hooks=hooks, cleaners=[broken, workspace, after]) as manager:
        session = await session_in(TERMINATING, manager)
        report = await manager.complete_cleanup(session.id)
        assert await store.count(SessionFilter()) == 0
    assert workspace.cleaned == []
    assert after.runs_for(session.id) == 1
    assert [(result.cleaner, result.outcome) for result in report.results] == [
        ("stop", Outcome.FAILED),
        ("close_agent", Outcome.DONE),
        ("worktree", Outcome.SKIPPED),
        ("after", Outcome.DONE),
        ("close_connection", Outcome.DONE),
    ]
    assert report.results[0].detail == "OSError: device busy"
    assert hooks.failures == [(session, report.results[0])]
    assert hooks.transitions[-1].after.state is CLEANED
    assert hooks.transitions[-1].report == report


@pytest.mark.parametrize("phase", [Phase.WORKSPACE, Phase.AFTER])
async def test_failure_elsewhere_skips_nothing(phase: Phase) -> None:
    broken = RecordingCleaner("broken", phase, when_cleaned=fail)
    others = [RecordingCleaner(name, Phase(name)) for name in Phase]
    async with make_manager(cleaners=[broken, *others]) as manager:
        session = await session_in(TERMINATING, manager)
        report = await manager.complete_cleanup(session.id)
    assert [cleaner.runs_for(session.id) for cleaner in others] == [1, 1, 1]
    assert [result.cleaner for result in report.results if result.outcome is not Outcome.DONE] == ["broken"]


async def test_failed_result_of_an_agent_cleaner_counts_as_its_failure() -> None:
    """A cleaner may also report its failure instead of raising it."""
    workspace = RecordingCleaner("worktree", Phase.WORKSPACE)
    hooks = RecordingHooks()
    cleaners = [RecordingCleaner("stop", Phase.AGENT, outcome=Outcome.FAILED), workspace]
    async with make_manager(hooks=hooks, cleaners=cleaners) as manager:
        session = await session_in(TERMINATING, manager)
        await manager.complete_cleanup(session.id)
    assert workspace.cleaned == []
    assert [result for _, result in hooks.failures] == [CleanerResult("stop", Outcome.FAILED)]


async def test_cleaner_that_overruns_its_deadline_has_failed() -> None:
    async def forever(*_: object) -> None:
        await anyio.sleep_forever()

    slow = RecordingCleaner("slow", Phase.AFTER, when_cleaned=forever)
    with anyio.fail_after(5):
        async with make_manager(cleaners=[slow], cleaner_timeout=0.05) as manager:
            session = await session_in(TERMINATING, manager)
            report = await manager.complete_cleanup(session.id)
    assert CleanerResult("slow", Outcome.FAILED, "took longer than 0.05 s") in report.results
    assert report.results[-1].outcome is Outcome.DONE


async def test_timeout_of_the_cleaners_own_is_not_its_deadline() -> None:
    async def give_up(*_: object) -> None:
        raise TimeoutError("the database did not answer")

    async with make_manager(cleaners=[RecordingCleaner("own", when_cleaned=give_up)]) as manager:
        session = await session_in(TERMINATING, manager)
        report = await manager.complete_cleanup(session.id)
    assert report.results[0].detail == "TimeoutError: the database did not answer"


async def test_cleaners_have_what_was_recorded_last() -> None:
    seen: list[object] = []

    async def look(session: Session, handle: Handle | None) -> None:
        seen.append((dict(session.resources), handle is not None))

    async with make_manager(cleaners=[RecordingCleaner(when_cleaned=look)]) as manager:
        session = await session_in(ACTIVE, manager)
        await manager.record(session.id, "git", {"branch": "b"})
        await manager.mark_terminating(session.id, "asked")
        await manager.complete_cleanup(session.id)
    assert seen == [({"git": {"branch": "b"}}, True)]


async def test_cleaner_may_look_up_its_session_and_change_another() -> None:
    async def act(session: Session, _: Handle | None) -> None:
        if session.agent_id == "auth":
            assert await manager.get(session.id) == session
            await manager.record_heartbeat(session.id)
            await manager.mark_terminating(other.id, "with the first")
            await manager.complete_cleanup(other.id)

    with anyio.fail_after(5):
        async with make_manager(cleaners=[RecordingCleaner(when_cleaned=act)]) as manager:
            session = await session_in(TERMINATING, manager)
            other = await session_in(ACTIVE, manager, agent_id="db")
            report = await manager.complete_cleanup(session.id)
            assert {result.outcome for result in report.results} == {Outcome.DONE}
            assert await manager.count() == 0
