"""Launchers and workspaces that leave something open, or let a cancellation out: their session ends, and no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
import sniffio

from relaykit.agent import Agent, AgentSpec, Record, Workspace
from relaykit.errors import SpawnError
from relaykit.hooks import hookimpl
from relaykit.session import Cause, Json, Session, SessionState
from relaykit.tasks import contained
from relaykit.testing import FakeLauncher, RecordingHooks, open_talk, open_test_relay
from support.relays import GIVEN, durable_storage

pytestmark = pytest.mark.anyio

LEFT_OPEN = "it left a task group or a cancel scope open"
OWN_CANCELLATION = "it let out a cancellation that was its own"


async def leave_a_task_group() -> None:
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    tasks.start_soon(anyio.sleep_forever)


async def leave_a_scope() -> None:
    anyio.CancelScope().__enter__()
    await anyio.lowlevel.checkpoint()


async def leave_a_cancelled_scope() -> None:
    anyio.CancelScope().__enter__().cancel()


async def let_a_cancellation_out() -> None:
    if sniffio.current_async_library() == "trio":  # where none can be made by hand
        await leave_a_scope()
    raise anyio.get_cancelled_exc_class()


LEAKS: Mapping[str, Callable[[], Awaitable[None]]] = {
    "group": leave_a_task_group,
    "scope": leave_a_scope,
    "cancelled": leave_a_cancelled_scope,
    "cancellation": let_a_cancellation_out,
}


async def leak(what: str) -> None:
    """Leak what the role says, as ``launch-group`` does; most roles say nothing."""
    await LEAKS.get(what, anyio.lowlevel.checkpoint)()


class LeakyWorkspace:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @hookimpl
    def relaykit_register_workspaces(self) -> Mapping[str, Workspace]:
        return {"leaky": self}

    async def prepare(self, session: Session, *_: object) -> Path:
        await leak(session.agent_id.removeprefix("prepare-"))
        return self.directory


class LeakyLauncher(FakeLauncher):
    """Leaks where its agents are started, asked for their profile, and closed: in turn, what the role says."""

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        agent: Any = await super().launch(spec, session, cwd, record, resume=resume)
        close, times = agent.aclose, count(1)

        async def aclose() -> None:
            await close()
            if next(times) <= 2:  # by its cleaner, and at its session's end; then by ourselves
                await leak(session.agent_id.removeprefix("close-"))

        agent.aclose = aclose
        await leak(session.agent_id.removeprefix("wake-" if resume else "launch-"))
        return agent  # type: ignore[no-any-return]

    async def profile(self, spec: AgentSpec, /) -> Json:
        await leave_a_task_group()
        return await super().profile(spec)


def how(what: str) -> str:
    """Return what is said of a leak. trio tells one from the other by where it is noticed: always in our own task."""
    own = what == "cancellation" and sniffio.current_async_library() == "asyncio"
    return OWN_CANCELLATION if own else LEFT_OPEN


async def test_sessions_end_alone(tmp_path: Path) -> None:
    hooks, launcher = RecordingHooks(), LeakyLauncher()
    opened = open_test_relay(
        tmp_path,
        plugins={"bad": LeakyWorkspace(tmp_path)},
        toml='[relay]\nworkspace = "leaky"\n',
        launcher=launcher,
        hooks=hooks,
    )
    async with opened as relay, open_talk(relay, "neighbour") as neighbour:
        for where, what in product(("prepare", "launch"), LEAKS):
            session = await relay.create(f"{where}-{what}")
            with anyio.fail_after(20):
                await relay.wait_ended(session.id)
            last = hooks.heard_of(session.id)[-1].after
            who = "the workspace 'leaky'" if where == "prepare" else "agent 'fake': the launcher 'fake'"
            assert (last.state, last.cause) == (SessionState.CLEANED, Cause.SPAWN_FAILED)
            assert last.reason == f"{who}: {how(what)}"
        for what in LEAKS:
            async with open_talk(relay, f"close-{what}") as talk:
                assert (await talk.prompt("hello")).text == "hello"
                await talk.end()
        with pytest.raises(SpawnError, match=f"the launcher 'fake': {LEFT_OPEN}"):
            await relay.profile()
        assert (await neighbour.prompt("still there?")).text == "still there?"
        await neighbour.end()
    assert len(launcher.agents) == 2 * len(LEAKS) + 1  # one a launch; and the neighbour's
    assert all(agent.closed for agent in launcher.agents)


async def test_a_wake_that_leaks_is_one_that_failed(tmp_path: Path) -> None:
    launcher = LeakyLauncher(resumable=True)
    async with (
        open_test_relay(tmp_path, launcher=launcher) as relay,
        open_talk(relay, "wake-group") as talk,
    ):
        assert (await talk.prompt("good night")).text == "good night"
        await relay.live(talk.session_id).fall_asleep("it is late")
        answer = await talk.prompt("good morning")
        why = f"the agent could not be started again: agent 'fake': the launcher 'fake': {LEFT_OPEN}"
        assert answer.result["message"] == why
        assert (await relay.require(talk.session_id)).state is SessionState.ACTIVE
        await talk.end()
    assert [agent.closed for agent in launcher.agents] == [True, True]


async def test_an_agent_that_is_there_when_nobody_wants_it_any_more_is_closed(tmp_path: Path) -> None:
    """The session is ended while its launch, which does not heed that, comes to its end."""
    starting, go_on = anyio.Event(), anyio.Event()

    async def start_whatever_happens(_: Session) -> None:
        with anyio.CancelScope(shield=True), anyio.fail_after(20):
            starting.set()
            await go_on.wait()

    launcher = FakeLauncher(when_started=start_whatever_happens)
    async with open_test_relay(tmp_path, launcher=launcher) as relay:
        session = await relay.create("auth")
        await starting.wait()
        await relay.stop(session.id, "enough")
        go_on.set()
        with anyio.fail_after(20):
            await relay.wait_ended(session.id)
        assert [agent.closed for agent in launcher.agents] == [True]


@pytest.mark.parametrize("error", [ExceptionGroup("several", [ValueError("one")]), KeyError("a")], ids=repr)
async def test_contained_raises_what_was_raised(error: Exception) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await contained(fail)
    assert caught.value is error


async def test_contained_is_cancelled_with_its_caller() -> None:
    lost: list[str] = []

    async def keep(result: str) -> None:
        await anyio.lowlevel.checkpoint()
        lost.append(result)

    async def call(*, heeds: bool) -> str:
        scope.cancel()
        with anyio.CancelScope(shield=not heeds):
            await anyio.lowlevel.checkpoint()
        return "a result"

    with anyio.CancelScope() as scope:
        await contained(partial(call, heeds=True), lost=keep)
        pytest.fail("it was not cancelled")
    assert (scope.cancelled_caught, lost) == (True, [])
    returned: list[str] = []
    with anyio.CancelScope() as scope:
        returned.append(await contained(partial(call, heeds=False), lost=keep))
    assert [*returned, *lost] == ["a result"]  # which of them, is the event loop's affair


class LeakyTalk(FakeLauncher):
    """Its agents leak where they are listened to, or spoken to, as the role says."""

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        agent: Any = await super().launch(spec, session, cwd, record, resume=resume)
        where, _, what = session.agent_id.partition("-")
        whole: Any = getattr(agent, where, None)

        async def part(*arguments: object) -> object:
            result = await whole(*arguments)
            await leak(what)
            return result

        if where in {"receive", "send"}:
            setattr(agent, where, part)
            agent.send_nowait = lambda _: False
        return agent  # type: ignore[no-any-return]


@pytest.mark.parametrize("storage", ["memory", GIVEN])  # which waits for nothing; which does
async def test_sessions_whose_agents_leak_end_alone(tmp_path: Path, storage: str) -> None:
    hooks = RecordingHooks()
    opened = open_test_relay(
        tmp_path,
        plugins={GIVEN: durable_storage()},
        toml=f'[relay]\nstorage = "{storage}"\n',
        launcher=LeakyTalk(),
        hooks=hooks,
    )
    async with opened as relay, open_talk(relay, "neighbour") as neighbour:
        for what in ("scope", "group"):  # which nobody notices before the agent is left
            async with open_talk(relay, f"receive-{what}") as talk:
                assert (await talk.prompt("hello")).text == "hello"
                await talk.end()
        for role in ("receive-cancelled", "receive-cancellation", *(f"send-{what}" for what in LEAKS)):
            session = await relay.create(role)
            with anyio.fail_after(20):
                await relay.live(session.id).rest.until_awake()
                body = b'{"prompt":[{"type":"text","text":"hello"}]}'
                await relay.prompt(session.id, body, client_id="c", turn="t")
                await relay.wait_ended(session.id)
            last = hooks.heard_of(session.id)[-1].after
            assert last.state is SessionState.CLEANED
            if last.cause is Cause.INTERNAL:  # said in the event loop's words, where that costs no task more
                assert (role.startswith("receive-"), storage) == (True, GIVEN)
                continue
            assert last.cause is Cause.AGENT_EXITED
            assert last.reason == f"agent 'fake': its launcher 'fake': {how(role.partition('-')[2])}"
        assert (await neighbour.prompt("still there?")).text == "still there?"
        await neighbour.end()
