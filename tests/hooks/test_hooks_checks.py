from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from relaykit.errors import Refused
from relaykit.hooks.events import SessionRequest
from support.dispatching import (
    EVENTS,
    REQUEST,
    SHORT,
    dispatcher,
    fail,
    fail_late,
    hang,
    let_a_cancellation_out,
    plugin,
    refuse,
)
from support.plugin_sites import RecordingMeter

pytest_plugins = "support.hook_calls"
pytestmark = pytest.mark.anyio


async def test_returning_allows(hook_calls: TaskGroup, tmp_path: Path) -> None:
    asked: list[str] = []

    async def allow(request: SessionRequest) -> None:
        asked.append(request.agent_id)

    hook = "relaykit_check_session"
    await dispatcher(tmp_path, hook_calls, ant=plugin(hook, allow), bee=plugin(hook, allow)).check_session(
        REQUEST
    )
    assert asked == ["auth", "auth"]


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (refuse, "not today"),
        (fail, "its relaykit_check_session failed: RuntimeError"),
        (fail_late, "its relaykit_check_session failed: TimeoutError"),
        (let_a_cancellation_out, "its relaykit_check_session failed"),
        (hang, "its relaykit_check_session took longer than 0.05 s"),
    ],
)
async def test_checks_fail_closed_and_the_first_refusal_ends_the_asking(
    hook_calls: TaskGroup, tmp_path: Path, failing: Callable[..., Awaitable[None]], why: str
) -> None:
    asked: list[str] = []

    async def allow() -> None:
        asked.append("ant")

    hook = "relaykit_check_session"
    dispatch = dispatcher(
        tmp_path,
        hook_calls,
        timeout=SHORT if failing is hang else 5.0,
        ant=plugin(hook, allow),
        bee=plugin(hook, failing),
    )
    with anyio.fail_after(5), pytest.raises(Refused) as caught:
        await dispatch.check_session(REQUEST)
    assert caught.value.reason.startswith(why)
    assert (caught.value.plugin, caught.value.hook) == ("bee", hook)
    assert "out of order" not in str(caught.value)  # what an error says is for the log
    assert asked == []


@pytest.mark.parametrize("hook", [hook for hook in EVENTS if hook.startswith("relaykit_check_")])
async def test_every_check_refuses(hook_calls: TaskGroup, tmp_path: Path, hook: str) -> None:
    method, arguments = EVENTS[hook]
    with pytest.raises(Refused, match="refused by plugin 'guard': not today"):
        await getattr(dispatcher(tmp_path, hook_calls, guard=plugin(hook, refuse)), method)(*arguments)


async def test_a_refusal_is_no_failure(
    hook_calls: TaskGroup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = RecordingMeter()
    dispatch = dispatcher(tmp_path, hook_calls, meter=meter, guard=plugin("relaykit_check_session", refuse))
    with pytest.raises(Refused), caplog.at_level(logging.ERROR):
        await dispatch.check_session(REQUEST)
    assert meter.failures("guard") == []
    assert not caplog.records


async def test_a_check_is_never_switched_off(hook_calls: TaskGroup, tmp_path: Path) -> None:
    meter = RecordingMeter()
    dispatch = dispatcher(
        tmp_path, hook_calls, meter=meter, timeout=SHORT, guard=plugin("relaykit_check_session", hang)
    )
    with anyio.fail_after(5):
        for _ in range(5):
            with pytest.raises(Refused):
                await dispatch.check_session(REQUEST)
    assert meter.failures("guard") == ["overrun"] * 5
