from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from anyio.abc import TaskGroup

from relaykit.agent.launcher import AgentSpec
from relaykit.agent.workspace import DirectoryWorkspace, InPlaceWorkspace
from relaykit.conversation.memory_journal import MemoryJournal
from relaykit.errors import PluginLoadError, SettingsError, UnknownImplementation
from relaykit.hooks import hookimpl
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.plugin_set import PluginSet, Provided
from relaykit.hooks.registration import Check, Command, MessageType, PluginContext, Route, Service
from relaykit.meter import NO_METER
from relaykit.session import CloseAgent, CloseConnection, MemoryStore
from relaykit.settings import setting
from relaykit.testing import FakeClock, FakeIds
from support.plugin_sites import RecordingMeter, load, settings_from

pytest_plugins = "support.hook_calls"

Register = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerSettings:
    number: int = setting(7, help="whom to page")
    token: str = setting("", help="how to page", secret=True)


def contexts_of(directory: Path, plugins: PluginSet | None = None) -> Callable[[str], PluginContext]:
    def context(name: str) -> PluginContext:
        return PluginContext(
            name=name,
            settings=plugins.settings_for(name) if plugins else None,
            projects={"default": directory},
            agents={},
            state_dir=directory,
            node="local",
            clock=FakeClock(),
            ids=FakeIds(),
            meter=NO_METER,
        )

    return context


def offering(hook: str, function: Register) -> object:
    """Return a plugin with this one register hook."""
    return type("Plugin", (), {hook: staticmethod(hookimpl(function))})()


def collected(plugins: PluginSet, what: str, directory: Path) -> Any:
    if what == "commands":
        return plugins.commands()
    return getattr(plugins, what)(contexts_of(directory))


# ---------------------------------------------------------------- relaykit's own


@pytest.mark.anyio
async def test_what_relaykit_brings_comes_through_hooks(tmp_path: Path) -> None:
    plugins = load(tmp_path)
    contexts = contexts_of(tmp_path)
    storages = plugins.storages(contexts)
    assert {name: provided.plugin for name, provided in storages.items()} == {"memory": "relaykit"}
    async with storages["memory"].value() as (store, journal):
        assert isinstance(store, MemoryStore)
        assert isinstance(journal, MemoryJournal)
    workspaces = plugins.workspaces(contexts)
    assert isinstance(workspaces["directory"].value, DirectoryWorkspace)
    assert isinstance(workspaces["in_place"].value, InPlaceWorkspace)


def test_what_relaykit_brings_can_be_disabled(tmp_path: Path) -> None:
    plugins = load(tmp_path, '[relay]\ndisabled = ["relaykit"]')
    assert plugins.storages(contexts_of(tmp_path)) == {}


# ---------------------------------------------------------------- what plugins offer

NEVER_CALLED: Any = object
SERVICE = Service(name="clock", open=NEVER_CALLED)
ROUTE = Route(path="/metrics", app=NEVER_CALLED)
MESSAGE = MessageType(name="ping", handle=NEVER_CALLED)
COMMAND = Command(name="backup", help="copy", run=lambda _arguments: 0)
CHECK = Check(name="disk", look=NEVER_CALLED)
SPEC = AgentSpec("echo", ("echo",))

OFFERS: list[tuple[str, object, dict[str, object]]] = [
    ("agents", {"echo": SPEC}, {"echo": SPEC}),
    ("storages", {"disk": dict}, {"disk": dict}),
    ("launchers", {"acp": dict}, {"acp": dict}),
    ("cleaners", [(cleaner := CloseAgent())], {"close_agent": cleaner}),
    ("services", [SERVICE], {"clock": SERVICE}),
    ("routes", (ROUTE,), {"/metrics": ROUTE}),
    ("messages", [MESSAGE], {"ping": MESSAGE}),
    ("commands", [COMMAND], {"backup": COMMAND}),
    ("checks", [CHECK], {"disk": CHECK}),
]


@pytest.mark.parametrize(("what", "offered", "expected"), OFFERS, ids=[offer[0] for offer in OFFERS])
def test_offers_come_with_the_name_of_their_plugin(
    tmp_path: Path, what: str, offered: object, expected: dict[str, object]
) -> None:
    plugins = load(tmp_path, pager=offering(f"relaykit_register_{what}", lambda: offered))
    found = collected(plugins, what, tmp_path)
    mine = {name: provided for name, provided in found.items() if provided.plugin == "pager"}
    assert mine == {name: Provided("pager", value) for name, value in expected.items()}


@pytest.mark.parametrize(("what", "offered", "_expected"), OFFERS, ids=[offer[0] for offer in OFFERS])
def test_one_name_from_two_plugins_names_both(
    tmp_path: Path, what: str, offered: object, _expected: object
) -> None:
    hook = f"relaykit_register_{what}"
    plugins = load(tmp_path, one=offering(hook, lambda: offered), two=offering(hook, lambda: offered))
    with pytest.raises(PluginLoadError, match=r"plugin 'one'.*offered by plugin 'two' too") as caught:
        collected(plugins, what, tmp_path)
    assert hook in str(caught.value)


@pytest.mark.parametrize(
    ("what", "offered"),
    [
        ("agents", {"echo": "echo"}),
        ("agents", [SPEC]),
        ("storages", {"disk": None}),
        ("storages", {1: dict}),
        ("workspaces", {"tree": object()}),
        ("launchers", "acp"),
        ("cleaners", [object()]),
        ("cleaners", "close_agent"),
        ("cleaners", [CloseConnection(), CloseConnection()]),
        ("services", [ROUTE]),
        ("services", SERVICE),
        ("routes", {"/metrics": ROUTE}),
        ("messages", [None]),
        ("commands", ["backup"]),
        ("checks", [COMMAND]),
        ("meters", object()),
        ("agents", {"echo": AgentSpec("echo", cast("Any", "echo --loud"))}),
        ("agents", {"echo": AgentSpec("echo", ())}),
        ("workspaces", {"tree": InPlaceWorkspace}),
        ("cleaners", [CloseAgent]),
        ("services", [Service(name="clock", open=cast("Any", None))]),
        ("routes", [Route(path="metrics", app=NEVER_CALLED)]),
        ("messages", [MessageType(name=cast("Any", b"ping"), handle=NEVER_CALLED)]),
        ("commands", [Command(name="backup", help="copy", run=cast("Any", "backup.sh"))]),
        ("checks", [Check(name="disk", look=cast("Any", []))]),
        ("meters", RecordingMeter),
    ],
)
def test_what_was_not_asked_for_names_the_plugin(tmp_path: Path, what: str, offered: object) -> None:
    hook = "relaykit_register_meter" if what == "meters" else f"relaykit_register_{what}"
    plugins = load(tmp_path, pager=offering(hook, lambda: offered))
    with pytest.raises(PluginLoadError, match=rf"plugin 'pager': {hook}.* was asked for") as caught:
        collected(plugins, what, tmp_path)
    assert caught.value.plugin == "pager"


@pytest.mark.parametrize(
    ("what", "offered", "why"),
    [
        ("workspaces", {"tree": InPlaceWorkspace}, "it is a class: return an instance of it"),
        ("workspaces", {"tree": FakeClock()}, "it lacks prepare"),
        ("cleaners", [FakeIds()], "it lacks clean, name, phase"),
        ("services", [Service(name="clock", open=cast("Any", None))], "its open is None, not a function"),
        (
            "routes",
            [Route(path="metrics", app=NEVER_CALLED)],
            "its path is 'metrics', which does not begin with '/'",
        ),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, what: str, offered: object, why: str) -> None:
    plugins = load(tmp_path, pager=offering(f"relaykit_register_{what}", lambda: offered))
    with pytest.raises(PluginLoadError, match=rf"where an? \w+ was asked for: {why}$"):
        collected(plugins, what, tmp_path)


def test_nothing_is_an_offer_too(tmp_path: Path) -> None:
    plugins = load(tmp_path, pager=offering("relaykit_register_routes", lambda: None))
    assert plugins.routes(contexts_of(tmp_path)) == {}


def test_what_a_hook_raises_names_the_plugin(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the disk is full")

    plugins = load(tmp_path, pager=offering("relaykit_register_storages", fail))
    with pytest.raises(
        PluginLoadError, match=r"plugin 'pager': relaykit_register_storages.*the disk is full"
    ):
        plugins.storages(contexts_of(tmp_path))


def test_each_plugin_gets_a_context_of_its_own_and_is_called_once(tmp_path: Path) -> None:
    seen: list[PluginContext] = []

    def register(context: PluginContext) -> dict[str, object]:
        seen.append(context)
        return {}

    hook = "relaykit_register_storages"
    plugins = load(tmp_path, one=offering(hook, register), two=offering(hook, register))
    plugins.storages(contexts_of(tmp_path, plugins))
    assert [context.name for context in seen] == ["two", "one"]


class Interested:
    def __init__(self, interests: object) -> None:
        self.interests = interests

    @hookimpl
    def relaykit_register_interests(self) -> object:
        return self.interests

    @hookimpl
    async def relaykit_on_turn_ended(self) -> None: ...

    @hookimpl
    async def relaykit_on_awake(self) -> None: ...

    @hookimpl
    async def relaykit_check_mode(self) -> None: ...


@pytest.mark.anyio
async def test_only_the_hooks_that_a_plugin_is_interested_in_are_called_and_all_its_checks(
    hook_calls: TaskGroup, tmp_path: Path
) -> None:
    hooks = ("relaykit_on_turn_ended", "relaykit_on_awake", "relaykit_check_mode")
    for interests, called in (
        (None, (True, True, True)),
        ([], (False, False, True)),
        (["relaykit_on_awake"], (False, True, True)),
    ):
        plugins = load(tmp_path, pager=Interested(interests))
        interested = plugins.interests(contexts_of(tmp_path))
        dispatcher = Dispatcher(plugins, clock=FakeClock(), tasks=hook_calls, interests=interested)
        assert tuple(map(dispatcher.listens_to, hooks)) == called
        other = load(tmp_path, pager=Interested([]), other=Interested(interests))
        interested = other.interests(contexts_of(tmp_path))
        dispatcher = Dispatcher(other, clock=FakeClock(), tasks=hook_calls, interests=interested)
        assert tuple(map(dispatcher.listens_to, hooks)) == called


@pytest.mark.parametrize(
    ("interests", "why"),
    [
        ("relaykit_on_awake", "it returned 'relaykit_on_awake', where a list"),
        (
            ["relaykit_on_awaken"],
            "one of its own `on` hooks was asked for: relaykit_on_awake, relaykit_on_turn_ended",
        ),
        (["relaykit_on_entries"], "it returned 'relaykit_on_entries', where one of its own"),
        (["relaykit_check_mode"], "it returned 'relaykit_check_mode', where one of its own"),
    ],
)
def test_interests_in_what_there_is_not(tmp_path: Path, interests: object, why: str) -> None:
    plugins = load(tmp_path, pager=Interested(interests))
    with pytest.raises(PluginLoadError, match=f"plugin 'pager': relaykit_register_interests: .*{why}"):
        plugins.interests(contexts_of(tmp_path))


def test_meters_go_by_their_plugin(tmp_path: Path) -> None:
    meter = RecordingMeter()
    hook = "relaykit_register_meter"
    plugins = load(tmp_path, figures=offering(hook, lambda: meter), silent=offering(hook, lambda: None))
    assert plugins.meters(contexts_of(tmp_path)) == {"figures": Provided("figures", meter)}


def test_the_error_for_an_unknown_name_lists_what_is_there_and_what_is_broken(tmp_path: Path) -> None:
    plugins = load(tmp_path, '[relay]\ndisabled = ["sqlite"]', sqlite=object())
    error = plugins.unknown("storage", "sqlite", plugins.storages(contexts_of(tmp_path)))
    assert isinstance(error, UnknownImplementation)
    assert error.installed == ("memory",)
    assert "plugin 'sqlite' is blocked: disabled in [relay]" in str(error)


# ---------------------------------------------------------------- their settings


def pager() -> object:
    return offering("relaykit_register_settings", lambda: PagerSettings)


def test_a_plugin_gets_its_own_table(tmp_path: Path) -> None:
    plugins = load(tmp_path, "[plugins.pager]\nnumber = 9", pager=pager(), other=object())
    assert plugins.settings_for("pager") == PagerSettings(number=9)
    assert plugins.settings_for("other") is None
    assert plugins.settings_types() == {"pager": PagerSettings}


def test_the_environment_finds_a_plugin_whose_name_has_a_dash(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, environ={"RELAYKIT_PLUGINS__MY_PAGER__NUMBER": "3"})
    plugins = load_plugins(settings, entry_points=(), extra={"my-pager": pager()})
    assert plugins.settings_for("my-pager") == PagerSettings(number=3)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[plugins.pager]\nnumber = "nine"', "expected an integer"),
        ("[plugins.pager]\nnumbr = 9", "did you mean 'number'"),
        ("[plugins.other]\nx = 1", "it has no settings"),
    ],
)
def test_a_wrong_table_is_found_at_start(tmp_path: Path, toml: str, message: str) -> None:
    plugins = load(tmp_path, toml, pager=pager(), other=object())
    with pytest.raises(SettingsError, match=message):
        plugins.check_settings()


def test_what_cannot_be_a_settings_class_names_the_plugin(tmp_path: Path) -> None:
    plugins = load(tmp_path, pager=offering("relaykit_register_settings", lambda: dict))
    with pytest.raises(PluginLoadError, match=r"plugin 'pager'.*not a dataclass"):
        plugins.settings_types()


@dataclass(frozen=True)
class Unreadable:
    value: complex = 1j


def test_a_type_that_settings_cannot_hold_names_the_plugin(tmp_path: Path) -> None:
    plugins = load(tmp_path, pager=offering("relaykit_register_settings", lambda: Unreadable))
    with pytest.raises(PluginLoadError, match=r"plugin 'pager'.*complex"):
        plugins.settings_for("pager")
