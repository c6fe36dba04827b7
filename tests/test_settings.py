from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from relaykit.errors import SettingsError
from relaykit.settings import (
    AgentSettings,
    ProjectSettings,
    RelaySettings,
    Settings,
    describe,
    load_settings,
    setting,
)
from support.plugin_sites import settings_from
from support.settings_tables import Colour, Everything, Guarded, everything, wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Required:
    bucket: str = setting(help="where to")


# ---------------------------------------------------------------- where they come from


def test_no_file_at_all_works(tmp_path: Path) -> None:
    settings = load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path)
    assert settings == Settings(
        relay=RelaySettings(),
        projects={"default": ProjectSettings(path=tmp_path)},
        agents={},
        state_dir=tmp_path / ".local/state/relaykit",
        sources=settings.sources,
    )


def test_the_file_is_looked_for_in_order(tmp_path: Path) -> None:
    work, config = tmp_path / "work", tmp_path / "config/relaykit"
    work.mkdir()
    config.mkdir(parents=True)

    def write(file: Path) -> Path:
        file.write_text(f'[relay]\nnode = "{file.stem}"')
        return file

    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}

    def node(config: Path | None = None) -> str:
        return load_settings(config, environ=environ, cwd=work).relay.node

    assert node() == "local"
    (config / "relaykit.toml").write_text('[relay]\nnode = "user"')
    assert node() == "user"
    (work / "relaykit.toml").write_text('[relay]\nnode = "here"')
    assert node() == "here"
    environ["RELAYKIT_CONFIG"] = str(write(tmp_path / "named.toml"))
    assert node() == "named"
    environ["RELAYKIT_CONFIG"] = "~/named.toml"
    assert node() == "named"
    assert node(write(tmp_path / "given.toml")) == "given"
    write(work / "relative.toml")
    assert node(Path("relative.toml")) == "relative"


def test_the_users_file_is_below_home_by_default(tmp_path: Path) -> None:
    (tmp_path / ".config/relaykit").mkdir(parents=True)
    (tmp_path / ".config/relaykit/relaykit.toml").write_text('[relay]\nnode = "user"')
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    for environ in ({}, {"XDG_CONFIG_HOME": "relative/is/ignored"}, {"RELAYKIT_CONFIG": ""}):
        assert load_settings(environ={"HOME": str(tmp_path), **environ}, cwd=cwd).relay.node == "user"


def test_the_file_asked_for_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(SettingsError, match=r"missing\.toml: there is no such file") as caught:
        load_settings(missing, environ={}, cwd=tmp_path)
    assert caught.value.origin == str(missing)
    with pytest.raises(SettingsError, match=r"missing\.toml: there is no such file"):
        load_settings(environ={"RELAYKIT_CONFIG": str(missing)}, cwd=tmp_path)


def test_the_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="it cannot be read: Is a directory"):
        load_settings(tmp_path, environ={}, cwd=tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe9"')
    with pytest.raises(SettingsError, match=r"it is not UTF-8 text: .* at byte 5"):
        load_settings(tmp_path / "latin.toml", environ={}, cwd=tmp_path)


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    error = wrong(tmp_path, '[relay]\nnode = "a"\nstorage = memory\n')
    assert error.origin == str(tmp_path / "relaykit.toml")
    assert "not valid TOML" in str(error)
    assert "line 3" in str(error)


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    toml = '[relay]\nnode = "file"\nstorage = "file"'
    relay = settings_from(tmp_path, toml, environ={"RELAYKIT_RELAY__NODE": "environment"}).relay
    assert (relay.node, relay.storage, relay.workspace) == ("environment", "file", "worktree")


def test_what_is_given_in_code_goes_before_the_environment(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, "[plugins.x]\nwhole = 1", environ={"RELAYKIT_PLUGINS__X__WHOLE": "2"})
    assert settings.plugin("x", Everything).whole == 2
    overriding = settings.with_plugin("x", {"whole": 3}, origin="--whole")
    assert overriding.plugin("x", Everything).whole == 3
    assert settings.plugin("x", Everything).whole == 2
    assert (
        next(row for row in describe(overriding, {"x": Everything}) if row.key == "plugins.x.whole").origin
        == "--whole"
    )
    with pytest.raises(
        SettingsError, match=r"--whole: plugins\.x\.whole: expected an integer; found a string"
    ):
        settings.with_plugin("x", {"whole": "3"}, origin="--whole").plugin("x", Everything)


def test_the_state_directory(tmp_path: Path) -> None:
    assert settings_from(tmp_path).state_dir == tmp_path / ".local/state/relaykit"
    assert settings_from(tmp_path, environ={"XDG_STATE_HOME": "/var/x"}).state_dir == Path("/var/x/relaykit")
    assert settings_from(tmp_path, '[relay]\nstate_dir = "here"').state_dir == tmp_path / "here"


# ---------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("TEXT", "as it = is", "as it = is"),
        ("WHOLE", "1_000", 1000),
        ("NUMBER", "2.5", 2.5),
        ("NUMBER", "2", 2.0),
        ("FLAG", "true", True),
        ("PATH", "/tmp", Path("/tmp")),
        ("NAMES", '["a", "b"]', ("a", "b")),
        ("LABELS", '{ a = "b" }', {"a": "b"}),
        ("MAYBE", "text", "text"),
        ("MAYBE_WHOLE", "7", 7),
        ("MAYBE_NAMES", "[]", ()),
        ("MODE", "safe", "safe"),
        ("COLOUR", "dark-blue", Colour.DARK_BLUE),
    ],
)
def test_every_type_can_be_overridden(tmp_path: Path, name: str, text: str, value: object) -> None:
    found = getattr(everything(tmp_path, **{f"RELAYKIT_PLUGINS__X__{name}": text}), name.lower())
    assert found == value
    assert type(found) is type(value) or isinstance(value, dict)


def test_names_have_no_case_and_no_dashes(tmp_path: Path) -> None:
    toml = '[agents.Claude-Code]\ncommand = ["a"]'
    settings = settings_from(tmp_path, toml, environ={"RELAYKIT_AGENTS__claude_code__COMMAND": '["b"]'})
    assert settings.agents == {"Claude-Code": AgentSettings(command=("b",))}


def test_tables_of_the_environment_alone(tmp_path: Path) -> None:
    environ = {"RELAYKIT_PROJECTS__SHOP__PATH": "shop", "RELAYKIT_AGENTS__ECHO__COMMAND": '["echo", "-n"]'}
    settings = settings_from(tmp_path, environ=environ)
    assert settings.projects == {"shop": ProjectSettings(path=tmp_path / "shop")}
    assert settings.agents == {"echo": AgentSettings(command=("echo", "-n"))}


def test_only_names_with_two_underscores_are_settings(tmp_path: Path) -> None:
    settings_from(tmp_path, environ={"RELAYKIT_HOME": "x", "RELAYKIT_RELAY_STORAGE": "y", "OTHER__KEY": "z"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("RELAYKIT_RELAY__NODES", "a", "did you mean 'node'"),
        ("RELAYKIT_RELAYS__NODE", "a", "no such section (did you mean 'relay'?)"),
        ("RELAYKIT_RELAY__NODE__NAME", "a", "must be RELAYKIT_RELAY__KEY"),
        ("RELAYKIT_AGENTS__CLAUDE", "a", "must be RELAYKIT_AGENTS__NAME__KEY"),
        ("RELAYKIT_PLUGINS__X__Y__Z", "a", "must be RELAYKIT_PLUGINS__NAME__KEY"),
        ("RELAYKIT_RELAY__HOOK_TIMEOUT", "5s", 'expected a number, written as in TOML; found a text, "5s"'),
        ("RELAYKIT_RELAY__HOOK_TIMEOUT", "nan", "expected a number"),
        ("RELAYKIT_RELAY__HOOK_TIMEOUT", "9" * 400, "expected a smaller number"),
        ("RELAYKIT_RELAY__TAIL_BYTES", "1.5", "expected an integer"),
        ("RELAYKIT_RELAY__TAIL_BYTES", "1\nx = 2", "expected an integer"),
        ("RELAYKIT_RELAY__DISABLED", "a, b", "expected a list of strings, written as in TOML"),
        ("RELAYKIT_RELAY__DISABLED", "[1]", 'expected a list of strings, as ["a", "b"]'),
        ("RELAYKIT_RELAY__STATE_DIR", "", "expected a path"),
        ("RELAYKIT_RELAY__NODE", "../up", "node '../up' is not valid"),
        (
            "RELAYKIT_AGENTS__CLAUDE__ENV",
            "[]",
            "set it in [agents.claude], or as RELAYKIT_AGENTS__CLAUDE__COMMAND",
        ),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    error = wrong(tmp_path, environ={name: text})
    assert message in str(error)
    assert error.origin == name or "set it in" in message


def test_two_variables_for_one_key(tmp_path: Path) -> None:
    error = wrong(tmp_path, environ={"RELAYKIT_RELAY__NODE": "a", "relaykit_relay__node": "b"})
    assert "RELAYKIT_RELAY__NODE" in str(error)
    assert "relaykit_relay__node" in str(error)


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("toml", "key", "message"),
    [
        ("[relai]", "relai", "no such table (did you mean 'relay'?); there are: relay, projects, agents, plugins"),
        ("relay = 3", "relay", "expected a table; found an integer"),
        ("plugins = []", "plugins", "expected a table; found a list"),
        ("[agents]\nclaude = 'x'", "agents.claude", "expected a table; found a string"),
        ("[relay]\nstorge = 'x'", "relay.storge", "no such key (did you mean 'storage'?); its keys: storage, "),
        ("[relay]\nstorage = 3", "relay.storage", "expected a string; found an integer, 3"),
        ("[relay]\nhook_timeout = '5'", "relay.hook_timeout", 'expected a number; found a string, "5"'),
        ("[relay]\nhook_timeout = true", "relay.hook_timeout", "expected a number; found true or false, true"),
        ("[relay]\ntail_bytes = false", "relay.tail_bytes", "expected an integer; found true or false, false"),
        ("[relay]\ndisabled = 'x'", "relay.disabled", 'expected a list of strings, as ["a", "b"]; found a string'),
        ("[relay]\nstate_dir = 2026-01-01", "relay.state_dir", "expected a path; found a date or a time"),
        ("[relay]\nstate_dir = '~nobody-at-all/x'", "relay.state_dir", "expected a path whose ~user exists"),
        ("[relay]\nhook_timeout = 0", "relay", "hook_timeout must be more than 0"),
        ("[relay]\nmax_queued_prompts = -1", "relay", "max_queued_prompts must be 0 or more"),
        ("[projects.shop]", "projects.shop.path", "set it in [projects.shop], or as RELAYKIT_PROJECTS__SHOP__PATH"),
        ("[projects.'../up']\npath = '.'", "projects.../up", "the name '../up' is not valid"),
        ("[projects.a-b]\n[projects.A_B]", "projects", "'a-b' and 'A_B' are one name in the environment"),
        ("[agents.claude]\ncommand = []", "agents.claude", "command names no program"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named(tmp_path: Path, toml: str, key: str, message: str) -> None:
    error = wrong(tmp_path, toml)
    assert error.key == key
    assert error.origin == str(tmp_path / "relaykit.toml")
    assert message in str(error)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("flag = 1", "expected true or false; found an integer"),
        ("labels = { a = 1 }", 'expected a table of strings, as { a = "b" }; found a table'),
        ("maybe = 1", "expected a string; found an integer"),
        ("mode = 'fats'", "expected one of 'fast', 'safe' (did you mean 'fast'?); found a string"),
        ("mode = 1", "expected one of 'fast', 'safe'; found an integer"),
        ("colour = 'RED'", "expected one of 'red', 'dark-blue'"),
        ("colours = 'red'", "no such key (did you mean 'colour'?)"),
    ],
)
def test_a_plugins_table_is_as_strict(tmp_path: Path, toml: str, message: str) -> None:
    error = wrong(tmp_path, f"[plugins.x]\n{toml}", cls=Everything)
    assert message in str(error)
    assert error.key.startswith("plugins.x.")


def test_what_a_dataclass_refuses_names_the_table(tmp_path: Path) -> None:
    error = wrong(tmp_path, "[plugins.x]\nlow = 3", cls=Guarded, environ={"RELAYKIT_PLUGINS__X__HIGH": "2"})
    assert error.key == "plugins.x"
    assert str(error).endswith("plugins.x: low is higher than high")
    assert error.origin == f"{tmp_path / 'relaykit.toml'}, RELAYKIT_PLUGINS__X__HIGH"
    assert isinstance(error.__cause__, ValueError)


def test_what_a_plugin_requires(tmp_path: Path) -> None:
    error = wrong(tmp_path, "[plugins.x]", cls=Required)
    assert error.key == "plugins.x.bucket"
    assert "set it in [plugins.x], or as RELAYKIT_PLUGINS__X__BUCKET" in str(error)


def test_values_in_the_list_of_variables_are_not_repeated(tmp_path: Path) -> None:
    error = wrong(tmp_path, "[agents.claude]\ncommand = ['a']\nenv = ['KEY=hunter2']")
    assert "'KEY' is not one" in str(error)
    assert "hunter2" not in str(error)


def test_paths_begin_where_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc/relay.toml"
    file.write_text("[plugins.x]\npath = 'data'")
    cwd = tmp_path / "work"
    cwd.mkdir()
    environ = {"HOME": "/home/me"}

    def path() -> Path:
        return load_settings(file, environ=environ, cwd=cwd).plugin("x", Everything).path

    assert path() == tmp_path / "etc/data"
    environ["RELAYKIT_PLUGINS__X__PATH"] = "data"
    assert path() == cwd / "data"
    environ["RELAYKIT_PLUGINS__X__PATH"] = "~/data"
    assert path() == Path("/home/me/data")
    environ["RELAYKIT_PLUGINS__X__PATH"] = "~"
    assert path() == Path("/home/me")


def test_plugins_that_are_not_installed(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, environ={"RELAYKIT_PLUGINS__PAGR__X": "1"})
    with pytest.raises(
        SettingsError, match=r"'pagr' is not installed \(did you mean 'pager'\?\); installed: pager"
    ) as caught:
        settings.check_plugins(["pager"])
    assert caught.value.origin == "RELAYKIT_PLUGINS__PAGR__X"
    settings_from(tmp_path, environ={"RELAYKIT_PLUGINS__MY_PAGER__X": "1"}).check_plugins(["my-pager"])
    with pytest.raises(SettingsError, match="'my_pager' is not installed"):  # in the file, names are exact
        settings_from(tmp_path, "[plugins.my_pager]").check_plugins(["my-pager"])


def test_which_plugins_are_named(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, "[plugins.a]", environ={"RELAYKIT_PLUGINS__MY_B__X": "1"})
    assert [settings.names_plugin(name) for name in ("a", "my-b", "c")] == [True, True, False]


@dataclass(frozen=True)
class Strange:
    numbers: tuple[int, ...] = ()


def test_a_type_that_settings_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a type that settings can hold"):
        settings_from(tmp_path).plugin("x", Strange)
