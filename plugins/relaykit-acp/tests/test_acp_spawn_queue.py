"""So many agents are started at once: the others wait in order, not for ever, and leave nothing when they go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import SettingsError, SpawnQueueTimeout
from relaykit.relay.rest import Presence
from relaykit.session import SessionState
from relaykit.session.model import Json
from relaykit_acp.finding import ECHO
from relaykit_acp.launcher import AcpLauncher
from relaykit_acp.settings import AcpSettings
from relaykit_acp.spawn_queue import SpawnQueue
from support.acp_agents import QUICK, Recorder, echo, launcher, new_session
from support.relays import ECHO as ECHO_AGENT
from support.relays import active_session, echo_with, ended, following, processes_of, running_relay

pytestmark = pytest.mark.anyio

SECONDS = 20


def only(most: int, *, seconds: float = 60.0) -> AcpSettings:
    return AcpSettings(
        max_spawning=most,
        spawn_queue_timeout=seconds,
        initialize_timeout=QUICK.initialize_timeout,
        eof_grace=QUICK.eof_grace,
        term_grace=QUICK.term_grace,
    )


class Starts:
    """Launches agents, and notes which have begun to start, and how many were starting at a time."""

    def __init__(self, launcher: AcpLauncher) -> None:
        self.begun: list[str] = []
        self.most = 0
        self._launcher = launcher
        self._starting = 0
        self._changed = anyio.Event()

    async def launch(self, name: str, spec: AgentSpec = ECHO) -> None:
        """Launch one, and close it."""

        async def record(_facts: Json) -> None:
            if name not in self.begun:
                self._starting += 1
                self.most = max(self.most, self._starting)
                self.begun.append(name)
                changed, self._changed = self._changed, anyio.Event()
                changed.set()
            await anyio.lowlevel.checkpoint()

        try:
            agent = await self._launcher.launch(spec, new_session(), Path.cwd(), record)
        finally:
            self._starting -= name in self.begun
        await agent.aclose()

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(SECONDS):
            while not is_so():
                await self._changed.wait()


async def test_no_more_than_so_many_are_started_at_once() -> None:
    async with launcher(only(2)) as opened:
        starts = Starts(opened)
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(starts.launch, f"a{number}")
        assert len(starts.begun) == 6
        assert starts.most == 2


async def test_they_wait_in_order_and_who_is_cancelled_leaves_the_queue() -> None:
    async with launcher(only(1)) as opened:
        starts = Starts(opened)
        async with anyio.create_task_group() as tasks:
            stuck, leaving = anyio.CancelScope(), anyio.CancelScope()

            async def within(scope: anyio.CancelScope, launch: Callable[[], object]) -> None:
                with scope:
                    await launch()  # type: ignore[misc]

            tasks.start_soon(within, stuck, partial(starts.launch, "stuck", echo("--no-initialize")))
            await starts.until(lambda: starts.begun == ["stuck"])
            for name in "bcd":
                scope = leaving if name == "c" else anyio.CancelScope()
                tasks.start_soon(within, scope, partial(starts.launch, name))
                await anyio.wait_all_tasks_blocked()
            leaving.cancel()
            await anyio.wait_all_tasks_blocked()
            assert starts.begun == ["stuck"]
            stuck.cancel()
        assert starts.begun == ["stuck", "b", "d"]


async def test_a_turn_that_does_not_come_in_time_is_a_named_error() -> None:
    async with launcher(only(1, seconds=0.1)) as opened:
        starts, recorder = Starts(opened), Recorder()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(starts.launch, "stuck", echo("--no-initialize"))
            await starts.until(lambda: starts.begun == ["stuck"])
            with anyio.fail_after(SECONDS), pytest.raises(SpawnQueueTimeout) as caught:
                await opened.launch(ECHO, new_session(), Path.cwd(), recorder)
            with anyio.fail_after(SECONDS), pytest.raises(SpawnQueueTimeout):
                await opened.profile(ECHO)
            tasks.cancel_scope.cancel()
        assert recorder.facts == []
        assert str(caught.value) == (
            "agent 'echo': it waited 0.1 s to be started, because 1 are started at once and others were before it: "
            "try again, or raise `max_spawning` or `spawn_queue_timeout` in [plugins.acp]"
        )
        await starts.launch("next")  # nobody holds a turn any more


async def test_what_is_stopped_while_it_waits_leaves_nothing_and_wakes_wait_too(tmp_path: Path) -> None:
    toml = echo_with("--no-initialize", name="stuck")
    async with running_relay(tmp_path, toml=toml, PLUGINS__ACP__MAX_SPAWNING="1") as relay:
        async with active_session(relay, "sleeper") as client:
            sleeper = client.session_id
            await relay.live(sleeper).fall_asleep("it is late")
        stuck = await relay.create("stuck", agent="stuck")
        with anyio.fail_after(SECONDS):
            while not processes_of(stuck.id):  # noqa: ASYNC110 -- nobody tells of it
                await anyio.sleep(0.01)
        waiting = await relay.create("waiting", agent=ECHO_AGENT)
        async with following(relay, sleeper) as client:
            await anyio.wait_all_tasks_blocked()
            assert relay.presence(sleeper) is Presence.WAKING
            session = await relay.require(waiting.id)
            assert (session.state, session.resources.get("acp")) == (SessionState.SPAWNING, None)
            await relay.stop(waiting.id, "enough")
            await ended(relay, waiting.id)
            assert processes_of(sleeper) == []
            await relay.stop(stuck.id, "enough")
            await client.until_notice("awake")
        assert processes_of(waiting.id) == []
        assert relay.live(sleeper).rest.failures == 0


def test_how_many_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, most in ((1, 4), (2, 4), (3, 6), (64, 128)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert SpawnQueue(0, seconds=1).most == most
    assert SpawnQueue(3, seconds=1).most == 3


async def test_less_than_none_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="max_spawning must be 0 or more, not -1"):
        async with running_relay(tmp_path, PLUGINS__ACP__MAX_SPAWNING="-1"):
            pass
