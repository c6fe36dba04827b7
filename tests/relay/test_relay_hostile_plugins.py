"""Ten hostile plugins: what becomes of each is said in the README, and no session is harmed.

Around each, sessions are created, prompted and ended, on both event loops; or, where the relay refuses to start with
it, the session that slept meanwhile goes on in the next relay that is without it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio

from relaykit.agent import Workspace
from relaykit.errors import DuplicatePlugin, InvalidHook, PluginLoadError, Refused
from relaykit.hooks import (
    EntriesRecorded,
    PluginContext,
    PromptRequest,
    SessionRequest,
    Transition,
    TurnEnded,
    hookimpl,
    load_plugins,
)
from relaykit.hooks import loader as loading
from relaykit.hooks.plugin_set import PluginState
from relaykit.relay import Relay
from relaykit.session import CleanerResult, Outcome, Phase, Session, SessionFilter
from relaykit.testing import (
    FakeLauncher,
    RecordingHooks,
    assert_transitions,
    open_talk,
    open_test_relay,
)
from support.plugin_sites import Site, settings_from
from support.relays import GIVEN, durable_storage

pytestmark = pytest.mark.anyio

README = Path(__file__).parents[2] / "README.md"
QUICK = "[relay]\nhook_timeout = 0.05\n"
WHOLE_LIFE = ("CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED")
TRIED: set[str] = set()


def hostile(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say which row of the README's table a test is about."""
    TRIED.add(what)
    return lambda test: test


def test_the_readme_has_a_row_for_each_and_no_other() -> None:
    (table,) = re.findall(r"^\| a plugin that … \|.*?\n\n", README.read_text(), re.MULTILINE | re.DOTALL)
    rows = [line.split("|")[1].strip() for line in table.strip().splitlines()[2:]]
    assert len(rows) == 10
    assert set(rows) == TRIED


# ---------------------------------------------------------------- sessions, which nothing harms


async def lives(relay: Relay, hooks: RecordingHooks, *, roles: Sequence[str] = ("auth", "db")) -> None:
    """Have sessions live through their whole lives, one after the other."""
    for role in roles:
        async with open_talk(relay, role) as talk:
            answer = await talk.prompt(f"hello, {role}")
            assert (answer.text, answer.failed) == (f"hello, {role}", False)
            await talk.end()
        assert_transitions(hooks, *WHOLE_LIFE, session_id=talk.session_id)
    assert list(await relay.list(SessionFilter())) == []


@asynccontextmanager
async def relay_with(
    directory: Path, toml: str = "", **plugins: object
) -> AsyncIterator[tuple[Relay, RecordingHooks]]:
    hooks = RecordingHooks()
    async with open_test_relay(directory, plugins=plugins, toml=toml, hooks=hooks) as relay:
        yield relay, hooks


async def refuses_to_start(directory: Path, error: type[Exception], match: str, **plugins: object) -> None:
    """A relay does not start with these plugins; and the session that sleeps meanwhile is there for the next."""
    storage, hooks, launcher = durable_storage(), RecordingHooks(), FakeLauncher(resumable=True)
    toml = f'[relay]\nstorage = "{GIVEN}"\n'

    def relay(**more: object) -> Any:
        given = {GIVEN: storage, **more}
        return open_test_relay(directory, plugins=given, toml=toml, hooks=hooks, launcher=launcher)

    async with relay() as first, open_talk(first, "sleeper") as talk:
        assert (await talk.prompt("good night")).text == "good night"
    with pytest.raises(error, match=match):
        async with relay(**plugins):
            pytest.fail("it started")
    async with relay() as last:
        assert (await last.require(talk.session_id)).agent_id == "sleeper"
        body = b'{"prompt":[{"type":"text","text":"good morning"}]}'
        async with last.attach(
            talk.session_id, client_id="c", protocol="test", after=talk.entries[-1].seq
        ) as cursor:
            await last.prompt(talk.session_id, body, client_id="c", turn="t")
            with anyio.fail_after(20):
                while not any(entry.frame.kind == "TURN_END" for entry in (await cursor.next()).entries):
                    pass
        await last.stop(talk.session_id, "enough")
        with anyio.fail_after(20):
            await last.wait_ended(talk.session_id)
    assert_transitions(hooks, *WHOLE_LIFE)


def state_of(relay: Relay, plugin: str) -> tuple[PluginState, str]:
    record = next(record for record in relay.plugins.records if record.name == plugin)
    return record.state, record.reason


# ---------------------------------------------------------------- raises, hangs, blocks


class Raises:
    @hookimpl
    async def relaykit_on_transition(self) -> None:
        raise ZeroDivisionError("a bug")

    @hookimpl
    async def relaykit_on_turn_ended(self) -> None:
        raise ZeroDivisionError("another")

    @hookimpl
    async def relaykit_check_session(self, request: SessionRequest) -> None:
        if request.agent_id == "unlucky":
            raise KeyError(request.agent_id)


@hostile("raises")
async def test_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with relay_with(tmp_path, bad=Raises()) as (relay, hooks):
        with pytest.raises(Refused, match="'bad': its relaykit_check_session failed: KeyError"):
            await relay.create("unlucky")
        await lives(relay, hooks)
        assert state_of(relay, "bad") == (PluginState.LOADED, "")
    assert caplog.text.count("plugin 'bad': its relaykit_on_transition failed: ZeroDivisionError") == 10
    assert caplog.text.count("plugin 'bad': its relaykit_on_turn_ended failed: ZeroDivisionError") == 2


async def test_raises_while_it_registers(tmp_path: Path) -> None:
    class RaisesAtOnce:
        @hookimpl
        def relaykit_register_workspaces(self) -> Mapping[str, Workspace]:
            raise ZeroDivisionError("a bug")

    why = "plugin 'bad': relaykit_register_workspaces failed: ZeroDivisionError"
    await refuses_to_start(tmp_path, PluginLoadError, why, bad=RaisesAtOnce())


class Hangs:
    @hookimpl
    async def relaykit_on_transition(self) -> None:
        await anyio.sleep_forever()

    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> None:
        if b"wait" in request.body:
            await anyio.sleep_forever()


@hostile("hangs")
async def test_hangs(tmp_path: Path) -> None:
    async with relay_with(tmp_path, QUICK, bad=Hangs()) as (relay, hooks):
        await lives(relay, hooks)
        state, why = state_of(relay, "bad")
        assert state is PluginState.SWITCHED_OFF
        assert why == "its relaykit_on_transition took longer than 0.05 s, 3 times in a row"
        async with open_talk(relay, "web") as talk:
            for _ in range(4):  # a check is never switched off
                with pytest.raises(Refused, match="'bad': its relaykit_check_prompt took longer than"):
                    await talk.prompt("wait")
            assert (await talk.prompt("hello")).text == "hello"
            await talk.end()


class HangsInThreads:
    """Waits for threads, which nobody can cancel."""

    def __init__(self) -> None:
        self.released = threading.Event()

    @hookimpl
    async def relaykit_on_transition(self) -> None:
        await anyio.to_thread.run_sync(self.released.wait, 60)

    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> None:
        if b"wait" in request.body:
            await anyio.to_thread.run_sync(self.released.wait, 60)


async def test_hangs_and_cannot_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relaykit.hooks.dispatch.LAST_MOMENT", 0.05)
    bad = HangsInThreads()
    async with relay_with(tmp_path, QUICK, bad=bad) as (relay, hooks):
        try:
            await lives(relay, hooks)
            assert state_of(relay, "bad")[0] is PluginState.SWITCHED_OFF
            async with open_talk(relay, "web") as talk:
                for _ in range(2):
                    with pytest.raises(Refused, match="'bad': its relaykit_check_prompt took longer than"):
                        await talk.prompt("wait")
                await talk.end()
        finally:
            bad.released.set()


class Blocks:
    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    async def relaykit_on_transition(self) -> None:
        self.calls += 1
        time.sleep(0.1)  # noqa: ASYNC251 -- this is what it is for


@hostile("blocks the event loop")
async def test_blocks(tmp_path: Path) -> None:
    blocks = Blocks()
    async with relay_with(tmp_path, QUICK, bad=blocks) as (relay, hooks):
        await lives(relay, hooks)
        assert state_of(relay, "bad")[0] is PluginState.SWITCHED_OFF
    assert blocks.calls == 3


# ---------------------------------------------------------------- the wrong type


class WrongAnswers:
    """Returns something from hooks that return nothing, as one might who wants to refuse by False."""

    name = "careless"
    phase = Phase.AFTER

    @hookimpl
    async def relaykit_on_transition(self) -> object:
        return self

    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> bool | None:
        return False if b"secret" in request.body else None

    @hookimpl
    def relaykit_register_cleaners(self) -> list[WrongAnswers]:
        return [self]

    async def clean(self, *_: object) -> Any:
        await anyio.lowlevel.checkpoint()


@hostile("returns the wrong type")
async def test_returns_the_wrong_type(tmp_path: Path) -> None:
    toml = '[relay]\ncleaners = ["careless"]\n'
    async with relay_with(tmp_path, toml, bad=WrongAnswers()) as (relay, hooks):
        await lives(relay, hooks)
        assert {(result.cleaner, result.outcome) for _, result in hooks.failures} == {("careless", "FAILED")}
        async with open_talk(relay, "web") as talk:
            with pytest.raises(
                Refused, match=r"'bad': .* returned a bool: raise Refused to refuse, return None"
            ):
                await talk.prompt("a secret")
            assert (await talk.prompt("hello")).text == "hello"
            await talk.end()


async def test_returns_the_wrong_part(tmp_path: Path) -> None:
    class OffersWrongly:
        @hookimpl
        def relaykit_register_workspaces(self) -> object:
            return {"scratch": "/tmp"}

    why = "plugin 'bad': relaykit_register_workspaces: it returned '/tmp', where a Workspace was asked for"
    await refuses_to_start(tmp_path, PluginLoadError, why, bad=OffersWrongly())


async def test_returns_no_directory(tmp_path: Path) -> None:
    class Nowhere:
        @hookimpl
        def relaykit_register_workspaces(self) -> object:
            return {"nowhere": self}

        async def prepare(self, *_: object) -> None:
            await anyio.lowlevel.checkpoint()

    async with relay_with(tmp_path, '[relay]\nworkspace = "nowhere"\n', bad=Nowhere()) as (relay, hooks):
        session = await relay.create("auth")
        with anyio.fail_after(20):
            await relay.wait_ended(session.id)
    assert_transitions(hooks, "CREATED", "SPAWNING", "TERMINATING", "CLEANED")
    assert hooks.transitions[-1].after.reason == (
        "the workspace 'nowhere' returned None, where a Path was asked for"
    )


# ---------------------------------------------------------------- leaks


class LeavesATask:
    """Starts a task that nobody ends, by the event loop's own means."""

    started = 0

    @hookimpl
    async def relaykit_on_transition(self) -> None:
        self.started += 1
        if sniffio.current_async_library() == "trio":
            import trio  # noqa: TID251 -- what a plugin may do

            trio.lowlevel.spawn_system_task(trio.sleep_forever)
        else:
            import asyncio  # noqa: TID251 -- as above

            self.task = asyncio.get_running_loop().create_task(anyio.sleep_forever())


class LeavesATaskGroup:
    """Enters a task group, starts a task in it, and returns."""

    @hookimpl
    async def relaykit_on_transition(self) -> None:
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(anyio.sleep_forever)

    @hookimpl
    async def relaykit_check_session(self, request: SessionRequest) -> None:
        if request.agent_id == "unlucky":
            await anyio.create_task_group().__aenter__()


class LeavesACancellation:
    """Lets a cancellation out that nobody has asked for."""

    @hookimpl
    async def relaykit_on_transition(self) -> None:
        raise anyio.get_cancelled_exc_class()


@hostile("leaks a task")
async def test_leaks_a_task(tmp_path: Path) -> None:
    plugin = LeavesATask()
    async with relay_with(tmp_path, bad=plugin) as (relay, hooks):
        await lives(relay, hooks)
    assert plugin.started == 10


async def test_leaks_a_task_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Transition] = []

    class Listens:
        @hookimpl
        async def relaykit_on_transition(self, transition: Transition) -> None:
            heard.append(transition)

    async with relay_with(tmp_path, bad=LeavesATaskGroup(), a_neighbour=Listens()) as (relay, hooks):
        await lives(relay, hooks)
        why = "'bad': its relaykit_check_session left a task group or a cancel scope open"
        with pytest.raises(Refused, match=why):
            await relay.create("unlucky")
    left = "plugin 'bad': its relaykit_on_transition left a task group or a cancel scope open"
    assert caplog.text.count(left) == 10
    assert heard == hooks.transitions


class LeavesInACleaner:
    """Does the same at the end of each session, and lets a cancellation out at the end of others."""

    name = "leaky"
    phase = Phase.AFTER

    @hookimpl
    def relaykit_register_cleaners(self) -> list[LeavesInACleaner]:
        return [self]

    async def clean(self, session: Session, _: object, /) -> CleanerResult:
        if session.agent_id == "db":
            raise anyio.get_cancelled_exc_class()
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(anyio.sleep_forever)
        return CleanerResult(self.name, Outcome.DONE)


async def test_leaks_in_a_cleaner(tmp_path: Path) -> None:
    toml = '[relay]\ncleaners = ["leaky"]\n'
    async with relay_with(tmp_path, toml, bad=LeavesInACleaner()) as (relay, hooks):
        await lives(relay, hooks)
        await lives(relay, hooks)
    details = [result.detail for _, result in hooks.failures]
    assert details[::2] == ["Leaked: it left a task group or a cancel scope open"] * 2
    own = {
        "asyncio": "Leaked: it let out a cancellation that was its own",
        "trio": "TypeError: trio.Cancelled has no public constructor",  # which therefore cannot happen there
    }
    assert details[1::2] == [own[sniffio.current_async_library()]] * 2


async def test_leaks_a_cancellation(tmp_path: Path) -> None:
    async with relay_with(tmp_path, bad=LeavesACancellation()) as (relay, hooks):
        await lives(relay, hooks)


# ---------------------------------------------------------------- registered twice, or under one name


@hostile("registers twice")
async def test_registers_twice(tmp_path: Path) -> None:
    class ImplementsTwice:
        @hookimpl
        async def relaykit_on_transition(self) -> None: ...

        @hookimpl(specname="relaykit_on_transition")
        async def again(self) -> None: ...

    class OffersTwice:
        @hookimpl
        def relaykit_register_cleaners(self) -> list[WrongAnswers]:
            return [WrongAnswers(), WrongAnswers()]

    await refuses_to_start(
        tmp_path, InvalidHook, "plugin 'bad': .*the plugin implements it twice", bad=ImplementsTwice()
    )
    plugin = Raises()
    await refuses_to_start(
        tmp_path, PluginLoadError, "the same object is registered", bad=plugin, worse=plugin
    )
    await refuses_to_start(
        tmp_path, PluginLoadError, "plugin 'bad': .*'careless', where each name once", bad=OffersTwice()
    )


@hostile("has the name of another, or offers something under one that is taken")
async def test_equal_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Offers:
        @hookimpl
        def relaykit_register_cleaners(self) -> list[WrongAnswers]:
            return [WrongAnswers()]

    why = "plugin 'bad': relaykit_register_cleaners: 'careless' is offered by plugin 'worse' too: disable one"
    await refuses_to_start(tmp_path, PluginLoadError, why, bad=Offers(), worse=Offers())

    site = Site(tmp_path / "site", monkeypatch)
    for distribution in ("acme-pager", "other-pager"):
        site.install("pager", distribution=distribution)
    with pytest.raises(DuplicatePlugin, match="'pager': the name is claimed by"):
        load_plugins(settings_from(tmp_path), entry_points=site.entry_points())


# ---------------------------------------------------------------- the rest


@hostile("has a hook of the wrong colour, a misspelt one, or one that takes what is not given")
async def test_wrong_colour(tmp_path: Path) -> None:
    class Plain:
        @hookimpl
        def relaykit_on_transition(self) -> None: ...

    why = "plugin 'bad': hook 'relaykit_on_transition': it must be an `async def`"
    await refuses_to_start(tmp_path, InvalidHook, why, bad=Plain())


SLOW = """
    import time
    from relaykit.hooks import hookimpl

    time.sleep(0.06)

    @hookimpl
    async def relaykit_on_transition(transition):
        pass
"""


@hostile("is slow to import")
async def test_imports_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "SLOW_IMPORT", 0.05)
    site = Site(tmp_path / "site", monkeypatch)
    site.install("slow", SLOW)
    with caplog.at_level(logging.WARNING):
        plugins = load_plugins(settings_from(tmp_path), entry_points=site.entry_points())
    assert re.search(r"plugin 'slow': its import took 0\.\d s, for which every command waits", caplog.text)
    assert plugins.records[-1].state is PluginState.LOADED
    async with relay_with(tmp_path, slow=site.entry_points()[0].load()) as (relay, hooks):
        await lives(relay, hooks)


class Mutates:
    """Changes whatever it is given, as far as that goes."""

    def __init__(self) -> None:
        self.resisted = 0

    def try_to(self, change: Callable[[], object]) -> None:
        with pytest.raises((AttributeError, TypeError, FrozenInstanceError)):
            change()
        self.resisted += 1

    @hookimpl
    def relaykit_register_workspaces(self, context: PluginContext) -> Mapping[str, Workspace]:
        agents: Any = context.agents
        projects: Any = context.projects
        self.try_to(lambda: agents.pop("fake"))
        self.try_to(lambda: projects.update(default="/"))
        self.try_to(lambda: setattr(context, "node", "mine"))
        self.try_to(lambda: setattr(agents["fake"], "command", ("evil",)))
        self.try_to(lambda: agents["told"].env.update(PATH="/evil"))
        return {}

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        resources: Any = transition.after.resources
        self.try_to(lambda: setattr(transition.after, "state", "CLEANED"))
        self.try_to(lambda: setattr(transition, "after", None))
        self.try_to(lambda: resources.update(fake={}))
        self.try_to(lambda: [facts.update(cwd="/") for facts in resources.values()] or resources.clear())

    @hookimpl
    async def relaykit_on_turn_ended(self, turn: TurnEnded) -> None:
        self.try_to(lambda: setattr(turn.session, "owner", "me"))

    @hookimpl
    async def relaykit_on_entries(self, batch: EntriesRecorded) -> None:
        entries: Any = batch.entries
        self.try_to(lambda: entries.pop(0))
        self.try_to(lambda: setattr(entries[0], "seq", 99))

    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> None:
        self.try_to(lambda: setattr(request, "body", b"something else"))


@hostile("mutates what it is given")
async def test_mutates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plugin = Mutates()
    told = '[agents.told]\ncommand = ["told"]\nlauncher = "fake"\n[relay]\ndefault_agent = "fake"\n'
    async with relay_with(tmp_path, told, bad=plugin) as (relay, hooks):
        await lives(relay, hooks)
        assert relay.agents["fake"].command == ("fake",)
    assert caplog.text == ""
    assert plugin.resisted > 40
