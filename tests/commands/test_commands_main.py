from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

from relaykit.commands import main
from relaykit.errors import RelaykitError
from relaykit.relay.running import read_running, running_file
from relaykit.testing import FakeClock
from support.plugin_sites import Site

CALL = "from relaykit.commands import main; raise SystemExit(main())"

BACKUP = """
    from relaykit.errors import RelaykitError
    from relaykit.hooks import hookimpl

    def run(arguments):
        if arguments.target == "nowhere":
            raise RelaykitError("there is no room")
        if arguments.target == "interrupted":
            raise KeyboardInterrupt
        print(f"to {arguments.target} from {arguments.load_settings().relay.node}, as {arguments.config} says")
        return 3

    @hookimpl
    def relaykit_register_commands():
        from relaykit.hooks.registration import Command

        def configure(parser):
            parser.add_argument("target")

        return [Command(name="backup", help="copy everything", configure=configure, run=run)]
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory of our own, without settings in the environment."""
    for name in os.environ:
        if name.upper().startswith(("RELAYKIT_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Only what a test installs is installed, and relaykit itself."""
    made = Site(tmp_path / "site", monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(metadata, "entry_points", lambda *, group: [*made.entry_points()] if group else [])
        yield made


def write(work: Path, toml: str) -> None:
    (work / "relaykit.toml").write_text(dedent(toml))


# ---------------------------------------------------------------- the command itself


def test_help_lists_every_command(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", BACKUP)
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "list the installed plugins" in said
    assert "copy everything" in said
    assert "missing" not in said


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"relaykit {metadata.version('relaykit')}\n"


def test_help_works_with_broken_settings(work: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", BACKUP)
    write(work, "[relay]\nnode = 3")
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "list the installed plugins" in said
    assert "relay.node: expected a string" in said
    assert "copy everything" not in said


def test_a_command_of_a_plugin_with_broken_settings_says_why_it_is_missing(
    work: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("copies", BACKUP)
    write(work, "[relay]\nnode = 3")
    assert main(["backup", "there"]) == 2
    assert "relay.node: expected a string" in capsys.readouterr().err


@pytest.mark.usefixtures("site")
def test_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_a_command_of_a_plugin(work: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", BACKUP)
    write(work, "[relay]\nnode = 'n1'")
    assert main(["backup", "there"]) == 3
    assert capsys.readouterr().out == "to there from n1, as None says\n"


@pytest.mark.parametrize("behind", [True, False])
def test_config_may_stand_on_either_side(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str], *, behind: bool
) -> None:
    site.install("copies", BACKUP)
    file = tmp_path / "other.toml"
    file.write_text("[relay]\nnode = 'n2'")
    config = ["--config", str(file)]
    assert main(["backup", "there", *config] if behind else [*config, "backup", "there"]) == 3
    assert capsys.readouterr().out == f"to there from n2, as {file} says\n"


@pytest.mark.usefixtures("site")
def test_config_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config"]) == 2
    assert "--config" in capsys.readouterr().err


def test_errors_are_printed_and_interrupts_have_a_code(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("copies", BACKUP)
    assert main(["backup", "nowhere"]) == 2
    assert capsys.readouterr().err == "relaykit: there is no room\n"
    assert main(["backup", "interrupted"]) == 130


def test_a_command_that_is_one_of_relaykits_own(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", BACKUP.replace('name="backup"', 'name="settings"'))
    assert main(["settings"]) == 2
    assert "plugin 'copies': its command 'settings' is one of relaykit's own" in capsys.readouterr().err
    assert main(["plugins"]) == 0  # where the culprit can be looked at
    captured = capsys.readouterr()
    assert "is one of relaykit's own" in captured.err
    assert "copies" in captured.out


def test_a_command_of_two_plugins(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", BACKUP)
    site.install("tapes", BACKUP)
    assert main(["backup", "there"]) == 2
    said = capsys.readouterr().err
    assert "plugin 'copies': relaykit_register_commands: 'backup' is offered by plugin 'tapes' too" in said


def test_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CALL, "plugins"],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 141
    assert b"BrokenPipe" not in done.stderr


# ---------------------------------------------------------------- how fast it answers


@pytest.mark.parametrize("command", ["--help", "plugins"])
def test_it_answers_at_once(command: str) -> None:
    spent = []
    for _ in range(5):
        before = os.times()
        subprocess.run(
            [sys.executable, "-c", CALL, command], stdout=subprocess.DEVNULL, timeout=30, check=True
        )
        after = os.times()
        # Time on the processor: how long others keep us waiting for it is not ours to test.
        spent.append(
            after.children_user - before.children_user + after.children_system - before.children_system
        )
    assert min(spent) < 0.3


@pytest.mark.parametrize("command", ["--help", "plugins"])
def test_it_loads_nothing_heavy(command: str) -> None:
    heavy = (
        "anyio",
        "asyncio",
        "trio",
        "msgspec",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "websockets",
        "httpx",
    )
    watch = f"import sys; from relaykit.commands import main; main([{command!r}]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", watch],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    loaded = done.stderr.decode().split()
    assert "relaykit.hooks.loader" in loaded
    assert [name for name in heavy if name in loaded] == []


# ---------------------------------------------------------------- relaykit plugins


def plugins_as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert main(["plugins", "--json"]) == 0
    return {record["name"]: record for record in json.loads(capsys.readouterr().out)}


def test_plugins_shows_what_became_of_each(
    work: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("copies", BACKUP, version="2.5")
    site.install("bad", "import no_such_module")
    site.install("spy")
    write(work, '[relay]\ndisabled = ["spy"]\n[plugins.bad]')
    assert main(["plugins"]) == 0
    header, own, bad, copies, spy = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "VERSION", "STATE", "HOOKS", "WHY"]
    assert own.split()[:3] == ["relaykit", metadata.version("relaykit"), "loaded"]
    assert "register_storages, register_workspaces" in own
    assert copies.split() == ["copies", "2.5", "loaded", "register_commands"]
    assert bad.split()[:3] == ["bad", "1.2.3", "broken"]
    assert "no_such_module" in bad
    assert spy.split()[:3] == ["spy", "1.2.3", "blocked"]


def test_plugins_as_json(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", BACKUP, distribution="acme-copies")
    assert plugins_as_json(capsys)["copies"] == {
        "name": "copies",
        "version": "1.2.3",
        "distribution": "acme-copies",
        "state": "loaded",
        "hooks": ["relaykit_register_commands"],
        "reason": "",
    }


def test_what_the_running_relay_switched_off(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("copies", BACKUP)
    with running_file(tmp_path / ".local/state/relaykit", started=FakeClock().now()) as running:
        running.set_switched_off("copies", "it was slow")
        running.set_switched_off("gone", "not installed any more")
        copies = plugins_as_json(capsys)["copies"]
        assert (copies["state"], copies["reason"]) == ("switched off", "it was slow")
    assert plugins_as_json(capsys)["copies"]["state"] == "loaded"


def test_a_state_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wanted = tmp_path / "file" / "relaykit"
    said = f"^the state directory {str(wanted)!r} cannot be written to by the user {os.geteuid()}: .* `state_dir` in"
    with pytest.raises(RelaykitError, match=said), running_file(wanted, started=FakeClock().now()):
        pass
    said = (
        f"^the state directory {str(wanted)!r} cannot be read by the user {os.geteuid()}: .* `state_dir` in"
    )
    with pytest.raises(RelaykitError, match=said):
        read_running(wanted)


# ---------------------------------------------------------------- relaykit settings

SETTINGS = """
    from dataclasses import dataclass

    from relaykit.hooks import hookimpl
    from relaykit.settings import setting

    @dataclass(frozen=True, slots=True, kw_only=True)
    class PagerSettings:
        number: int = setting(7, help="whom to page")
        token: str = setting("t0ken", help="how to page", secret=True)

    @hookimpl
    def relaykit_register_settings():
        return PagerSettings
"""


def test_settings_shows_every_key(
    work: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("pager", SETTINGS)
    monkeypatch.setenv("RELAYKIT_RELAY__NODE", "n1")
    write(work, "[plugins.pager]\nnumber = 9")
    assert main(["settings"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["KEY", "TYPE", "VALUE", "DEFAULT", "ORIGIN", "OWNER"]
    assert ["relay.node", "string", '"n1"', '"local"', "RELAYKIT_RELAY__NODE", "relaykit"] in lines
    assert ["plugins.pager.number", "integer", "9", "7", str(work / "relaykit.toml"), "pager"] in lines
    assert ["plugins.pager.token", "string", "***", "***", "default", "pager"] in lines


def test_settings_as_json(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("pager", SETTINGS)
    assert main(["settings", "--json"]) == 0
    said = capsys.readouterr().out
    assert {
        "key": "plugins.pager.number",
        "type": "integer",
        "value": "7",
        "default": "7",
        "origin": "default",
        "owner": "pager",
        "help": "whom to page",
    } in json.loads(said)
    assert "t0ken" not in said


@pytest.mark.usefixtures("site")
def test_settings_cuts_long_values(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(work, f"[relay]\nstorage = '{'x' * 500}'")
    assert main(["settings"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 300
    assert main(["settings", "--json"]) == 0
    assert "x" * 500 in capsys.readouterr().out


def test_settings_of_a_broken_plugin_that_they_name(
    work: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("bad", "import no_such_module")
    write(work, "[plugins.bad]")
    assert main(["settings"]) == 2
    assert "relaykit: plugin 'bad': it cannot be imported" in capsys.readouterr().err


def test_wrong_settings(work: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("pager", SETTINGS)
    write(work, "[plugins.pager]\nnumber = 'nine'")
    assert main(["settings"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"relaykit: {work / 'relaykit.toml'}: plugins.pager.number: expected an integer")
    for command in ("plugins", "settings"):
        write(work, "[relay")
        assert main([command]) == 2
        assert "not valid TOML" in capsys.readouterr().err
