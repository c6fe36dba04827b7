"""Old plugins and new ones: what is too new is refused with both numbers, what is deprecated works and warns."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from anyio.abc import TaskGroup

from relaykit.commands.announced import find_command
from relaykit.errors import IncompatiblePlugin, PluginLoadError
from relaykit.hooks import API_VERSION, PluginContext, Route, hookimpl, specs
from relaykit.hooks.compatibility import deprecated
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.plugin_set import PluginRecord, PluginSet, PluginState
from relaykit.session import Transition
from relaykit.testing import FakeClock
from support.dispatching import TRANSITION
from support.plugin_sites import Site, imported, load

pytest_plugins = "support.hook_calls"

NEWER = f"v{API_VERSION + 1}"
LISTENER = """
    from relaykit.hooks import hookimpl

    @hookimpl
    async def relaykit_on_transition(transition):
        pass
"""

VERSION_1 = {
    "relaykit_check_mode": {"request"},
    "relaykit_check_permission": {"request"},
    "relaykit_check_prompt": {"request"},
    "relaykit_check_session": {"request"},
    "relaykit_on_access_refused": {"refusal"},
    "relaykit_on_call": {"call"},
    "relaykit_on_cleanup_failed": {"failure"},
    "relaykit_on_client_attached": {"client"},
    "relaykit_on_client_detached": {"client"},
    "relaykit_on_entries": {"batch"},
    "relaykit_on_question_answered": {"question"},
    "relaykit_on_question_asked": {"question"},
    "relaykit_on_transition": {"transition"},
    "relaykit_on_turn_ended": {"turn"},
    "relaykit_on_turn_started": {"turn"},
    "relaykit_register_agents": {"context"},
    "relaykit_register_checks": {"context"},
    "relaykit_register_cleaners": {"context"},
    "relaykit_register_commands": set[str](),
    "relaykit_register_launchers": {"context"},
    "relaykit_register_messages": {"context"},
    "relaykit_register_meter": {"context"},
    "relaykit_register_routes": {"context"},
    "relaykit_register_services": {"context"},
    "relaykit_register_settings": set[str](),
    "relaykit_register_storages": {"context"},
    "relaykit_register_workspaces": {"context"},
}
"""Each hook of version 1 and its arguments. What stands here stays, as long as plugins of version 1 are loaded."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path / "site", monkeypatch)


def record_of(plugins: PluginSet, name: str) -> PluginRecord:
    return next(record for record in plugins.records if record.name == name)


def test_what_version_1_has_is_there() -> None:
    now = {
        name: set(inspect.signature(spec).parameters)
        for name, spec in inspect.getmembers(specs, inspect.isfunction)
        if name.startswith("relaykit_")
    }
    assert {hook: arguments & now.get(hook, set()) for hook, arguments in VERSION_1.items()} == VERSION_1


# ---------------------------------------------------------------- too new


def test_a_plugin_that_needs_newer_hooks_is_refused_with_both_numbers(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    module = site.install("pager", "from relaykit.hooks import SomethingNew", needs=NEWER)
    site.install("other", LISTENER)
    plugins = load(tmp_path, entry_points=site.entry_points())
    pager = record_of(plugins, "pager")
    said = f"it needs version {API_VERSION + 1} of the hooks, and this relaykit has version {API_VERSION}"
    assert (pager.state, pager.hooks) == (PluginState.BROKEN, ())
    assert pager.reason.startswith(said)
    assert f"plugin 'pager': {said}" in caplog.text
    assert not imported(module)
    assert record_of(plugins, "other").state is PluginState.LOADED

    with pytest.raises(IncompatiblePlugin, match="upgrade relaykit, or install an older version") as caught:
        load(tmp_path, "[plugins.pager]", entry_points=site.entry_points())
    assert (caught.value.plugin, caught.value.needs, caught.value.offered) == (
        "pager",
        API_VERSION + 1,
        API_VERSION,
    )
    assert not imported(module)


@pytest.mark.parametrize("needs", ["", f"v{API_VERSION}"])
def test_one_that_needs_no_more_than_there_is(tmp_path: Path, site: Site, needs: str) -> None:
    site.install("pager", LISTENER, needs=needs)
    assert record_of(load(tmp_path, entry_points=site.entry_points()), "pager").state is PluginState.LOADED


@pytest.mark.parametrize("needs", ["1", "1.0", "v0", "v1.0", "newest", "v" + "9" * 5000])
def test_a_need_that_cannot_be_understood(tmp_path: Path, site: Site, needs: str) -> None:
    site.install("pager", LISTENER, needs=needs)
    with pytest.raises(PluginLoadError, match=r"plugin 'pager': .* is no version of the hooks: write 'v1'"):
        load(tmp_path, "[plugins.pager]", entry_points=site.entry_points())


@pytest.mark.parametrize(("needs", "found"), [("v1", True), (NEWER, False), ("nonsense", False)])
def test_its_announced_commands_are_not_imported_either(site: Site, needs: str, *, found: bool) -> None:
    source = """
        from relaykit.hooks import Command

        BACKUP = Command(name="backup-of-this-test", help="", run=lambda _: 0)
    """
    site.install("pager", source, needs=needs, announces="backup-of-this-test = MODULE:BACKUP")
    assert (find_command("backup-of-this-test", list) is not None) is found


# ---------------------------------------------------------------- deprecated


@pytest.fixture
def old_hook(monkeypatch: pytest.MonkeyPatch) -> str:
    """A hook that version 2 has deprecated: it goes by another name now."""

    @specs.hookspec
    async def relaykit_on_state(transition: Transition) -> None: ...

    marked = deprecated(since=2, advice="implement relaykit_on_transition")(relaykit_on_state)
    monkeypatch.setattr(specs, "relaykit_on_state", marked, raising=False)
    return "relaykit_on_state"


@pytest.fixture
def old_argument(monkeypatch: pytest.MonkeyPatch) -> str:
    """A hook one of whose arguments is called otherwise since version 3."""

    @specs.hookspec
    async def relaykit_on_transition(transition: Transition, change: Transition) -> None: ...

    marked = deprecated(since=3, advice="take transition", argument="change")(relaykit_on_transition)
    monkeypatch.setattr(specs, "relaykit_on_transition", marked)
    return "relaykit_on_transition"


def plugin(hook: str, function: Callable[..., Awaitable[None]]) -> object:
    return type("Plugin", (), {hook: staticmethod(hookimpl(function))})()


@pytest.mark.anyio
async def test_a_deprecated_hook_warns_with_the_plugins_name_and_works(
    hook_calls: TaskGroup, tmp_path: Path, old_hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    async def listen(transition: Transition) -> None:
        heard.append(transition)

    use = "relaykit_on_state is deprecated since version 2 of the hooks: implement relaykit_on_transition"
    with (
        caplog.at_level(logging.WARNING),
        pytest.warns(DeprecationWarning, match=f"^plugin 'pager': {use}$"),
    ):
        plugins = load(tmp_path, pager=plugin(old_hook, listen))
    assert f"plugin 'pager': {use}; it still works" in caplog.text
    record = record_of(plugins, "pager")
    assert (record.state, record.hooks, record.reason) == (PluginState.LOADED, (old_hook,), use)

    dispatcher = Dispatcher(plugins, clock=FakeClock(), tasks=hook_calls)
    await dispatcher._tell(old_hook, TRANSITION)
    assert heard == [TRANSITION]


@pytest.mark.anyio
async def test_a_deprecated_argument_warns_with_the_plugins_name_and_is_given(
    hook_calls: TaskGroup, tmp_path: Path, old_argument: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    async def old(change: Transition) -> None:
        heard.append(("old", change))

    async def both(transition: Transition, change: Transition) -> None:
        heard.append(("both", transition, change))

    async def new(transition: Transition) -> None:
        heard.append(("new", transition))

    plugins = [plugin(old_argument, function) for function in (old, both, new)]
    use = "relaykit_on_transition: its argument 'change' is deprecated since version 3 of the hooks: take transition"
    with pytest.warns(DeprecationWarning, match="'change'") as warned:
        loaded = load(tmp_path, old=plugins[0], both=plugins[1], new=plugins[2])
    assert [str(each.message) for each in warned] == [f"plugin 'both': {use}", f"plugin 'old': {use}"]
    assert record_of(loaded, "new").reason == ""
    assert "'new'" not in caplog.text

    await Dispatcher(loaded, clock=FakeClock(), tasks=hook_calls).transitioned(TRANSITION)
    assert heard == [("old", TRANSITION), ("new", TRANSITION), ("both", TRANSITION, TRANSITION)]


def test_a_deprecated_register_hook_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @specs.hookspec
    def relaykit_register_routes(context: PluginContext) -> list[Route]: ...  # type: ignore[empty-body]

    marked = deprecated(since=2, advice="use a service")(relaykit_register_routes)
    monkeypatch.setattr(specs, "relaykit_register_routes", marked)

    @hookimpl
    def offer(context: PluginContext) -> list[Route]:
        return [Route(path=f"/{context}", app=nothing)]

    pager = type("Plugin", (), {"relaykit_register_routes": staticmethod(offer)})()
    with pytest.warns(DeprecationWarning, match="relaykit_register_routes is deprecated"):
        plugins = load(tmp_path, pager=pager)
    contexts: Any = str
    assert list(plugins.routes(contexts)) == ["/pager"]


async def nothing(*_: object) -> None:
    pass


def test_whoever_uses_nothing_deprecated_hears_nothing(
    tmp_path: Path, site: Site, old_hook: str, old_argument: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert old_hook != old_argument
    site.install("pager", LISTENER)
    assert record_of(load(tmp_path, entry_points=site.entry_points()), "pager").reason == ""
    assert caplog.text == ""
