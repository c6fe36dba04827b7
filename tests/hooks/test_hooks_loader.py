from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from relaykit.errors import DuplicatePlugin, InvalidHook, PluginLoadError, SettingsError
from relaykit.hooks import hookimpl
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.plugin_set import PluginRecord, PluginState
from support.plugin_sites import Site, imported, load, settings_from

LISTENER = """
    from relaykit.hooks import hookimpl

    @hookimpl
    async def relaykit_on_transition(transition):
        pass
"""
MISSPELT = """
    from relaykit.hooks import hookimpl

    @hookimpl
    async def relaykit_on_transitoin(transition):
        pass
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path / "site", monkeypatch)


def record_of(records: Sequence[PluginRecord], name: str) -> PluginRecord:
    return next(record for record in records if record.name == name)


def test_an_installed_plugin_is_loaded(tmp_path: Path, site: Site) -> None:
    site.install("pager", LISTENER, distribution="acme-pager", version="2.0.1")
    records = load(tmp_path, entry_points=site.entry_points()).records
    assert record_of(records, "pager") == PluginRecord(
        name="pager",
        version="2.0.1",
        distribution="acme-pager",
        state=PluginState.LOADED,
        hooks=("relaykit_on_transition",),
        reason="",
    )


def test_plugins_load_in_the_order_of_their_names_and_are_called_last_first(
    tmp_path: Path, site: Site
) -> None:
    for name in ("zebra", "ant", "mole"):
        site.install(name, LISTENER)
    plugins = load(tmp_path, entry_points=site.entry_points())
    assert [record.name for record in plugins.records] == ["relaykit", "ant", "mole", "zebra"]
    called = [found.plugin for found in plugins.implementations("relaykit_on_transition")]
    assert called == ["zebra", "mole", "ant"]


def test_tryfirst_and_trylast_go_before_names(tmp_path: Path, site: Site) -> None:
    site.install("zebra", LISTENER.replace("@hookimpl", "@hookimpl(trylast=True)"))
    site.install("mole", LISTENER)
    site.install("ant", LISTENER.replace("@hookimpl", "@hookimpl(tryfirst=True)"))
    plugins = load(tmp_path, entry_points=site.entry_points())
    called = [found.plugin for found in plugins.implementations("relaykit_on_transition")]
    assert called == ["ant", "mole", "zebra"]


def test_two_sets_share_nothing(tmp_path: Path, site: Site) -> None:
    site.install("pager", LISTENER)
    first = load(tmp_path, entry_points=site.entry_points())
    second = load(tmp_path, entry_points=site.entry_points())
    first.switch_off("pager", "it is slow")
    assert record_of(first.records, "pager").state is PluginState.SWITCHED_OFF
    assert record_of(second.records, "pager").state is PluginState.LOADED


def test_a_blocked_plugin_is_never_imported(tmp_path: Path, site: Site) -> None:
    trace = tmp_path / "imported"
    module = site.install("spy", f"open({str(trace)!r}, 'w').close()")
    records = load(tmp_path, '[relay]\ndisabled = ["spy"]', entry_points=site.entry_points()).records
    assert not trace.exists()
    assert not imported(module)
    spy = record_of(records, "spy")
    assert (spy.state, spy.version) == (PluginState.BLOCKED, "1.2.3")
    assert "disabled" in spy.reason

    load(tmp_path, entry_points=site.entry_points())  # the trace would have been left
    assert trace.exists()


def test_lists_at_the_top_of_the_file_that_a_blocked_plugin_ignores_are_warned_of(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("actions")
    hooks = '[[hooks]]\non = ["active"]\n'
    load(tmp_path, hooks, entry_points=site.entry_points())
    blocked = '[relay]\ndisabled = ["actions"]\n'
    load(tmp_path, blocked, entry_points=site.entry_points()).check_settings()
    assert caplog.text == ""
    plugins = load(tmp_path, blocked + hooks, entry_points=site.entry_points())
    plugins.check_settings()
    why = "disabled in [relay], and with it every table of [[hooks]] in the settings: none of them does anything"
    assert f"plugin 'actions' is blocked: {why}" in caplog.text
    assert record_of(plugins.records, "actions").reason == why


def test_a_blocked_plugin_may_have_a_table(tmp_path: Path, site: Site) -> None:
    site.install("spy")
    load(tmp_path, '[relay]\ndisabled = ["spy"]\n[plugins.spy]\nx = 1', entry_points=site.entry_points())


def test_blocking_what_is_not_installed_is_an_error(tmp_path: Path, site: Site) -> None:
    site.install("pager")
    with pytest.raises(SettingsError, match=r"relay\.disabled.*'pagr' is not installed.*'pager'") as caught:
        load(tmp_path, '[relay]\ndisabled = ["pagr"]', entry_points=site.entry_points())
    assert caught.value.key == "relay.disabled"


def test_a_broken_installed_plugin_is_skipped_and_recorded(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("bad", "import no_such_module")
    site.install("good", LISTENER)
    with caplog.at_level(logging.WARNING):
        records = load(tmp_path, entry_points=site.entry_points()).records
    bad = record_of(records, "bad")
    assert (bad.state, bad.hooks) == (PluginState.BROKEN, ())
    assert "no_such_module" in bad.reason
    assert record_of(records, "good").state is PluginState.LOADED
    assert "'bad'" in caplog.text


def test_a_broken_plugin_that_settings_name_is_fatal(tmp_path: Path, site: Site) -> None:
    site.install("bad", "import no_such_module")
    with pytest.raises(
        PluginLoadError, match=r"plugin 'bad': it cannot be imported.*no_such_module"
    ) as caught:
        load(tmp_path, "[plugins.bad]", entry_points=site.entry_points())
    assert caught.value.plugin == "bad"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_broken_plugin_with_a_wrong_hook_is_fatal_too_when_named(tmp_path: Path, site: Site) -> None:
    site.install("bad", MISSPELT)
    skipped = record_of(load(tmp_path, entry_points=site.entry_points()).records, "bad")
    assert skipped.state is PluginState.BROKEN
    assert "relaykit_on_transition" in skipped.reason
    with pytest.raises(InvalidHook):
        load(tmp_path, "[plugins.bad]", entry_points=site.entry_points())


def test_commands_that_show_what_is_wrong_forgive(tmp_path: Path, site: Site) -> None:
    site.install("bad", MISSPELT)
    toml = "[plugins.bad]\n[plugins.absent]"
    records = load(tmp_path, toml, entry_points=site.entry_points(), forgiving=True).records
    assert record_of(records, "bad").state is PluginState.BROKEN


def test_two_distributions_with_one_name(tmp_path: Path, site: Site) -> None:
    site.install("pager", LISTENER, distribution="acme-pager")
    site.install("pager", LISTENER, distribution="other-pager")
    with pytest.raises(
        DuplicatePlugin, match=r"'acme-pager' and 'other-pager'|'other-pager' and 'acme-pager'"
    ):
        load(tmp_path, entry_points=site.entry_points())


def test_one_distribution_seen_twice_is_no_duplicate(tmp_path: Path, site: Site) -> None:
    site.install("pager", LISTENER)
    entry_points = site.entry_points(times=2)
    assert len(entry_points) == 2
    plugins = load(tmp_path, entry_points=entry_points)
    assert len(plugins.implementations("relaykit_on_transition")) == 1


@pytest.mark.parametrize("name", ["relaykit", "mine"])
def test_names_that_are_taken_already(tmp_path: Path, site: Site, name: str) -> None:
    site.install(name, LISTENER, distribution="acme")
    with pytest.raises(DuplicatePlugin, match=r"'acme' and '(relaykit itself|the application)'"):
        load(tmp_path, entry_points=site.entry_points(), mine=object())


def test_one_object_under_two_names(tmp_path: Path) -> None:
    class Plugin:
        pass

    plugin = Plugin()
    with pytest.raises(PluginLoadError, match="plugin 'two': the same object"):
        load(tmp_path, one=plugin, two=plugin)


def test_a_table_of_a_plugin_that_is_not_installed(tmp_path: Path, site: Site) -> None:
    site.install("gateway")
    with pytest.raises(
        SettingsError, match=r"'gatway' is not installed \(did you mean 'gateway'\?\)"
    ) as caught:
        load(tmp_path, "[plugins.gatway]", entry_points=site.entry_points())
    assert caught.value.key == "plugins.gatway"
    assert caught.value.origin == str(tmp_path / "relaykit.toml")
    assert "installed: gateway, relaykit" in str(caught.value)


def test_the_environment_is_searched_by_default(tmp_path: Path, site: Site) -> None:
    site.install("pager-of-this-test", LISTENER)
    records = load_plugins(settings_from(tmp_path)).records
    assert record_of(records, "pager-of-this-test").state is PluginState.LOADED


# ---------------------------------------------------------------- what a hook must look like


def refused(tmp_path: Path, **methods: object) -> InvalidHook:
    plugin = type("Plugin", (), methods)()
    with pytest.raises(InvalidHook) as caught:
        load(tmp_path, wrong=plugin)
    assert caught.value.plugin == "wrong"
    return caught.value


def test_a_misspelt_hook(tmp_path: Path) -> None:
    @hookimpl
    async def relaykit_on_transitoin(self: object, transition: object) -> None: ...

    error = refused(tmp_path, relaykit_on_transitoin=relaykit_on_transitoin)
    assert error.hook == "relaykit_on_transitoin"
    assert "did you mean 'relaykit_on_transition'?" in str(error)
    assert "plugin 'wrong'" in str(error)


def test_a_forgotten_marker(tmp_path: Path) -> None:
    async def relaykit_on_transition(self: object, transition: object) -> None: ...

    error = refused(tmp_path, relaykit_on_transition=relaykit_on_transition)
    assert "lacks @hookimpl" in str(error)
    error = refused(tmp_path, relaykit_register_routes=staticmethod(list))
    assert "lacks @hookimpl" in str(error)


def test_wrong_colours(tmp_path: Path) -> None:
    @hookimpl
    def plain(self: object) -> None: ...

    @hookimpl
    async def awaited(self: object) -> None: ...

    for hook in ("relaykit_on_transition", "relaykit_check_prompt"):
        error = refused(tmp_path, **{hook: plain})
        assert error.hook == hook
        assert "an `async def`" in str(error)
    error = refused(tmp_path, relaykit_register_routes=awaited)
    assert "a plain `def`" in str(error)


def test_generators_have_no_colour(tmp_path: Path) -> None:
    @hookimpl
    def plain(_self: object) -> object:
        yield

    @hookimpl
    async def awaited(_self: object) -> object:
        yield

    assert "without `yield`" in str(refused(tmp_path, relaykit_register_routes=plain))
    assert "without `yield`" in str(refused(tmp_path, relaykit_on_transition=awaited))


def test_wrappers(tmp_path: Path) -> None:
    @hookimpl(wrapper=True)
    def new(_self: object) -> object:
        return (yield)

    @hookimpl(hookwrapper=True)
    def old(_self: object) -> object:
        yield

    for wrapper in (new, old):
        assert "wrapper" in str(refused(tmp_path, relaykit_on_transition=wrapper))


def test_unknown_arguments(tmp_path: Path) -> None:
    @hookimpl
    async def hook(self: object, transitions: object) -> None: ...

    error = refused(tmp_path, relaykit_on_transition=hook)
    assert "'transitions' that is not given (did you mean 'transition'?); there are: transition" in str(error)


def test_arguments_that_would_never_be_given(tmp_path: Path) -> None:
    @hookimpl
    async def defaulted(self: object, transition: object = None) -> None: ...

    @hookimpl
    async def keyword(self: object, *, transition: object) -> None: ...

    @hookimpl
    async def gathered(self: object, **everything: object) -> None: ...

    for hook in (defaulted, keyword):
        assert "never be given" in str(refused(tmp_path, relaykit_on_transition=hook))
    assert "**everything" in str(refused(tmp_path, relaykit_on_transition=gathered))


def test_a_hook_is_implemented_once_by_each_plugin(tmp_path: Path) -> None:
    @hookimpl
    async def one(self: object) -> None: ...

    @hookimpl(specname="relaykit_on_transition")
    async def other(self: object) -> None: ...

    assert "twice" in str(refused(tmp_path, relaykit_on_transition=one, other=other))


def test_an_optional_hook_of_a_newer_relaykit_is_left_alone(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl(optionalhook=True)
        async def relaykit_on_something_new(self) -> None: ...

        @hookimpl
        async def relaykit_on_transition(self) -> None: ...

    plugins = load(tmp_path, new=Plugin())
    assert record_of(plugins.records, "new").hooks == ("relaykit_on_transition",)
    assert "relaykit_on_something_new" not in plugins.asynchronous_hooks()


def test_properties_are_not_run(tmp_path: Path) -> None:
    class Plugin:
        @property
        def relaykit_register_nothing(self) -> object:
            raise AssertionError("it was run")

    load(tmp_path, lazy=Plugin())
