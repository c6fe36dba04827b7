from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

from relaykit.errors import Refused
from relaykit.hooks import hookimpl
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.plugin_set import PluginSet, PluginState
from relaykit.session import SessionState, Transition
from relaykit.tasks import OwnedTasks
from relaykit.testing import FakeClock
from support.dispatching import (
    EVENTS,
    REQUEST,
    SHORT,
    TRANSITION,
    dispatcher,
    fail,
    fail_late,
    hang,
    let_a_cancellation_out,
    plugin,
    refuse,
)
from support.managers import make_manager, session_in
from support.plugin_sites import RecordingMeter, load

pytest_plugins = "support.hook_calls"
pytestmark = pytest.mark.anyio


def state_of_last(plugins: PluginSet) -> PluginState:
    return plugins.records[-1].state


def test_every_asynchronous_hook_is_tried_here(tmp_path: Path) -> None:
    assert sorted(EVENTS) == list(load(tmp_path).asynchronous_hooks())


@pytest.mark.parametrize("hook", EVENTS)
async def test_an_implementation_gets_what_it_names(hook_calls: TaskGroup, tmp_path: Path, hook: str) -> None:
    method, arguments = EVENTS[hook]
    name = load(tmp_path)._manager.hook.__dict__[hook].spec.argnames[0]
    heard: list[Any] = []
    space: dict[str, Any] = {"heard": heard}
    exec(f"async def named({name}): heard.append({name})\nasync def bare(): heard.append('bare')", space)
    dispatch = dispatcher(tmp_path, hook_calls, a=plugin(hook, space["named"]), b=plugin(hook, space["bare"]))
    assert dispatch.listens_to(hook)
    await getattr(dispatch, method)(*arguments)
    assert heard[0] == "bare"
    if hook == "relaykit_on_cleanup_failed":
        assert (heard[1].session, heard[1].result) == arguments
    else:
        assert heard[1] is arguments[0]


async def test_no_implementation_no_call(hook_calls: TaskGroup, tmp_path: Path) -> None:
    dispatch = dispatcher(tmp_path, hook_calls)
    assert not dispatch.listening
    for hook, (method, arguments) in EVENTS.items():
        assert not dispatch.listens_to(hook)
        with anyio.CancelScope() as scope:
            scope.cancel()  # a checkpoint would raise
            await getattr(dispatch, method)(*arguments)
        assert not scope.cancelled_caught


async def test_the_manager_asks_who_listens(hook_calls: TaskGroup, tmp_path: Path) -> None:
    for hook in ("relaykit_on_transition", "relaykit_on_cleanup_failed"):
        assert dispatcher(tmp_path, hook_calls, a=plugin(hook, hang)).listening
    assert not dispatcher(tmp_path, hook_calls, a=plugin("relaykit_on_turn_ended", hang)).listening


async def test_asking_for_a_hook_that_is_none(hook_calls: TaskGroup, tmp_path: Path) -> None:
    for hook in ("relaykit_on_transitoin", "relaykit_register_routes"):
        with pytest.raises(KeyError):
            dispatcher(tmp_path, hook_calls).listens_to(hook)


# ---------------------------------------------------------------- observers


async def test_implementations_are_called_one_after_the_other(hook_calls: TaskGroup, tmp_path: Path) -> None:
    heard: list[str] = []

    def teller(name: str) -> object:
        async def tell() -> None:
            heard.append(f"{name} begins")
            await anyio.lowlevel.checkpoint()
            heard.append(f"{name} ends")

        return plugin("relaykit_on_transition", tell)

    dispatch = dispatcher(tmp_path, hook_calls, ant=teller("ant"), bee=teller("bee"))
    await dispatch.transitioned(TRANSITION)
    assert heard == ["bee begins", "bee ends", "ant begins", "ant ends"]


@pytest.mark.parametrize(
    ("failing", "failure", "said"),
    [
        (fail, "error", "RuntimeError"),
        (fail_late, "error", "TimeoutError"),
        (let_a_cancellation_out, "error", ""),
        (refuse, "error", "Refused"),
        (hang, "overrun", "took longer than 0.05 s"),
    ],
)
async def test_what_one_does_wrong_does_not_concern_the_next(
    hook_calls: TaskGroup,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    failing: Callable[..., Awaitable[None]],
    failure: str,
    said: str,
) -> None:
    heard = anyio.Event()
    meter = RecordingMeter()

    async def listen() -> None:
        heard.set()

    hook = "relaykit_on_transition"
    dispatch = dispatcher(
        tmp_path,
        hook_calls,
        meter=meter,
        timeout=SHORT if failing is hang else 5.0,
        ant=plugin(hook, listen),
        bee=plugin(hook, failing),
    )
    with anyio.fail_after(5), caplog.at_level(logging.ERROR):
        await dispatch.transitioned(TRANSITION)
    assert heard.is_set()
    assert ("hook_failures", 1, {"plugin": "bee", "hook": hook, "failure": failure}) in meter.counted
    assert [labels for name, _, labels in meter.observed if name == "hook"] == [
        {"plugin": "bee", "hook": hook},
        {"plugin": "ant", "hook": hook},
    ]
    assert "plugin 'bee'" in caplog.text
    assert hook in caplog.text
    assert said in caplog.text


async def test_three_overruns_in_a_row_switch_an_observer_off(
    hook_calls: TaskGroup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    told: list[tuple[str, str, str]] = []
    meter = RecordingMeter()

    async def overrun() -> None:
        calls.append("slow")
        await anyio.sleep_forever()

    plugins = load(tmp_path, slow=plugin("relaykit_on_transition", overrun))
    dispatch = Dispatcher(
        plugins,
        clock=FakeClock(),
        tasks=hook_calls,
        meter=meter,
        timeout=SHORT,
        on_switch_off=lambda *what: told.append(what),
    )
    with anyio.fail_after(5), caplog.at_level(logging.ERROR):
        for _ in range(2):
            await dispatch.transitioned(TRANSITION)
        assert state_of_last(plugins) is PluginState.LOADED
        for _ in range(3):
            await dispatch.transitioned(TRANSITION)
    assert len(calls) == 3
    assert meter.failures("slow") == ["overrun", "overrun", "overrun", "switched_off"]
    assert state_of_last(plugins) is PluginState.SWITCHED_OFF
    assert "relaykit_on_transition took longer than 0.05 s" in plugins.records[-1].reason
    assert [(name, hook) for name, hook, _ in told] == [("slow", "relaykit_on_transition")]
    assert "plugin 'slow' is switched off" in caplog.text
    assert not dispatch.listening


async def test_whoever_hears_of_the_switching_off_may_fail(
    hook_calls: TaskGroup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    async def listen() -> None:
        heard.append("bee")

    def fail_to_hear(*_: str) -> None:
        raise OSError("the disk is full")

    hook = "relaykit_on_transition"
    plugins = load(tmp_path, ant=plugin(hook, listen), zebra=plugin(hook, hang))
    dispatch = Dispatcher(
        plugins, clock=FakeClock(), tasks=hook_calls, timeout=SHORT, on_switch_off=fail_to_hear
    )
    with anyio.fail_after(5):
        for _ in range(3):
            await dispatch.transitioned(TRANSITION)
    assert len(heard) == 3
    assert "the disk is full" in caplog.text


async def test_overruns_that_are_not_in_a_row_switch_nothing_off(
    hook_calls: TaskGroup, tmp_path: Path
) -> None:
    outcomes = iter([hang, hang, fail, hang, hang])

    async def sometimes() -> None:
        await next(outcomes)()

    plugins = load(tmp_path, slow=plugin("relaykit_on_transition", sometimes))
    dispatch = Dispatcher(plugins, clock=FakeClock(), tasks=hook_calls, timeout=SHORT)
    with anyio.fail_after(5):
        for _ in range(5):
            await dispatch.transitioned(TRANSITION)
    assert state_of_last(plugins) is PluginState.LOADED
    assert dispatch.listening


async def test_switching_off_leaves_the_plugins_other_hooks_on(hook_calls: TaskGroup, tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        async def relaykit_on_transition(self) -> None:
            await anyio.sleep_forever()

        @hookimpl
        async def relaykit_on_turn_ended(self) -> None: ...

    dispatch = dispatcher(tmp_path, hook_calls, timeout=SHORT, half=Plugin())
    with anyio.fail_after(5):
        for _ in range(3):
            await dispatch.transitioned(TRANSITION)
    assert not dispatch.listens_to("relaykit_on_transition")
    assert dispatch.listens_to("relaykit_on_turn_ended")


async def test_concurrent_overruns_switch_off_once(hook_calls: TaskGroup, tmp_path: Path) -> None:
    meter = RecordingMeter()
    dispatch = dispatcher(
        tmp_path, hook_calls, meter=meter, timeout=SHORT, slow=plugin("relaykit_on_transition", hang)
    )
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(dispatch.transitioned, TRANSITION)
    assert meter.failures("slow").count("switched_off") == 1


@pytest.mark.parametrize("blocking", [True, False])
async def test_ending_behind_the_deadline_is_an_overrun(
    hook_calls: TaskGroup, tmp_path: Path, *, blocking: bool
) -> None:
    meter = RecordingMeter()

    async def late() -> None:
        if blocking:
            time.sleep(2 * SHORT)  # noqa: ASYNC251 -- blocking the loop is what is tried
        else:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2 * SHORT)

    dispatch = dispatcher(
        tmp_path, hook_calls, meter=meter, timeout=SHORT, late=plugin("relaykit_on_transition", late)
    )
    await dispatch.transitioned(TRANSITION)
    assert meter.failures("late") == ["overrun"]


async def test_a_cancelled_caller_is_cancelled(hook_calls: TaskGroup, tmp_path: Path) -> None:
    started = anyio.Event()
    stopped = anyio.Event()
    meter = RecordingMeter()

    async def listen() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    dispatch = dispatcher(tmp_path, hook_calls, meter=meter, slow=plugin("relaykit_on_transition", listen))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.transitioned, TRANSITION)
            await started.wait()
            tasks.cancel_scope.cancel()
    assert stopped.is_set()
    assert meter.failures("slow") == []


# ---------------------------------------------------------------- what cannot be ended


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaykit.hooks.dispatch.LAST_MOMENT", SHORT)


@pytest.mark.usefixtures("_impatient")
async def test_an_observer_that_cannot_be_ended_is_left_to_itself(
    tmp_path: Path, hook_calls: TaskGroup, caplog: pytest.LogCaptureFixture
) -> None:
    released, heard = threading.Event(), list[str]()
    meter, hook = RecordingMeter(), "relaykit_on_transition"

    async def stuck() -> None:
        heard.append("stuck")
        await anyio.to_thread.run_sync(released.wait, 20)

    async def listen() -> None:
        heard.append("bee")

    plugins = load(tmp_path, ant=plugin(hook, listen), stuck=plugin(hook, stuck))
    dispatch = Dispatcher(plugins, clock=FakeClock(), tasks=hook_calls, meter=meter, timeout=SHORT)
    try:
        with anyio.fail_after(10):
            for _ in range(3):
                await dispatch.transitioned(TRANSITION)
        assert heard == ["stuck", "bee", "bee", "bee"]
        assert meter.failures("stuck") == ["overrun", "switched_off"]
        assert state_of_last(plugins) is PluginState.SWITCHED_OFF
        assert (
            plugins.records[-1].reason == f"its {hook} took longer than {SHORT:g} s, and could not be ended"
        )
        dispatch.leave()
        assert f"'stuck': its {hook} has not ended, and cannot be" in caplog.text
    finally:
        released.set()


@pytest.mark.usefixtures("_impatient")
async def test_a_check_that_cannot_be_ended_refuses_until_it_has(
    tmp_path: Path, hook_calls: TaskGroup
) -> None:
    calls: list[threading.Event] = []
    over = anyio.Event()

    async def stuck() -> None:
        calls.append(threading.Event())
        await anyio.to_thread.run_sync(calls[-1].wait, 20)
        over.set()

    dispatch = dispatcher(tmp_path, hook_calls, timeout=SHORT, stuck=plugin("relaykit_check_session", stuck))
    try:
        with anyio.fail_after(10):
            for _ in range(3):
                with pytest.raises(Refused, match="took longer than"):
                    await dispatch.check_session(REQUEST)
            assert len(calls) == 1  # and not a thread for each that asks
            calls[0].set()
            await over.wait()
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Refused, match="took longer than"):
                await dispatch.check_session(REQUEST)
            assert len(calls) == 2
    finally:
        for call in calls:
            call.set()


async def test_a_call_that_ends_well_does_not_hide_one_that_is_stuck(
    tmp_path: Path, hook_calls: TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaykit.hooks.dispatch.LAST_MOMENT", 0.01)
    overrun, given_up, released = anyio.Event(), anyio.Event(), anyio.Event()
    calls: list[str] = []

    async def check() -> None:
        calls.append("it is asked")
        if len(calls) > 1:
            return await given_up.wait()
        try:
            await anyio.sleep_forever()
        finally:
            overrun.set()
            with anyio.CancelScope(shield=True):
                await released.wait()

    dispatch = dispatcher(tmp_path, hook_calls, timeout=0.5, guard=plugin("relaykit_check_session", check))

    async def ask_in_vain() -> None:
        with pytest.raises(Refused, match="took longer than"):
            await dispatch.check_session(REQUEST)
        given_up.set()

    try:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask_in_vain)
                await overrun.wait()
                await dispatch.check_session(
                    REQUEST
                )  # it begins before the other is given up, and ends behind
            await ask_in_vain()
        assert len(calls) == 2
    finally:
        released.set()


async def test_hooks_are_told_also_while_the_host_is_cancelled(tmp_path: Path) -> None:
    heard: list[str] = []

    async def listen() -> None:
        await anyio.lowlevel.checkpoint()
        heard.append("told")

    async with OwnedTasks() as tasks:
        dispatch = dispatcher(tmp_path, tasks, ant=plugin("relaykit_on_transition", listen))
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.fail_after(5):
            await dispatch.transitioned(TRANSITION)
    assert heard == ["told"]


# ---------------------------------------------------------------- with a real Manager


async def test_a_hook_may_call_the_manager_for_its_own_session(hook_calls: TaskGroup, tmp_path: Path) -> None:
    versions: list[tuple[int, str]] = []
    over = anyio.Event()

    async def end_it(transition: Transition) -> None:
        versions.append((transition.after.version, transition.after.state))
        if transition.after.state is SessionState.ACTIVE:
            await manager.mark_terminating(transition.after.id, "a hook says so")
            await manager.complete_cleanup(transition.after.id)
        if transition.after.state is SessionState.CLEANED:
            over.set()

    async def follow(transition: Transition) -> None:
        followed.append(transition.after.version)

    followed: list[int] = []
    hook = "relaykit_on_transition"
    dispatch = dispatcher(tmp_path, hook_calls, ant=plugin(hook, follow), bee=plugin(hook, end_it))
    with anyio.fail_after(5):
        async with make_manager(hooks=dispatch) as manager:
            session = await session_in(SessionState.ACTIVE, manager)
            await over.wait()
            assert await manager.get(session.id) is None
    assert [state for _, state in versions] == ["CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED"]
    assert [version for version, _ in versions] == sorted(version for version, _ in versions)
    assert followed == [version for version, _ in versions]


@pytest.mark.parametrize("failing", [fail, hang, let_a_cancellation_out])
async def test_no_hook_changes_what_becomes_of_a_session(
    hook_calls: TaskGroup, tmp_path: Path, failing: Callable[..., Awaitable[None]]
) -> None:
    heard: list[str] = []

    async def follow(transition: Transition) -> None:
        heard.append(transition.after.state)

    hook = "relaykit_on_transition"
    dispatch = dispatcher(
        tmp_path,
        hook_calls,
        timeout=SHORT if failing is hang else 5.0,
        ant=plugin(hook, follow),
        bee=plugin(hook, failing),
    )
    with anyio.fail_after(5):
        async with make_manager(hooks=dispatch) as manager:
            session = await session_in(SessionState.ACTIVE, manager)
            assert session.state is SessionState.ACTIVE
            await manager.mark_terminating(session.id, "done")
            report = await manager.complete_cleanup(session.id)
            assert report.session is not None
            assert report.session.state is SessionState.CLEANED
    assert heard == ["CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED"]
