"""Commands that are found by an entry point of their own, without loading all plugins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from relaykit.commands import announced, main
from relaykit.hooks.loader import load_plugins
from support.plugin_sites import Site, imported, settings_from

PARLEY = """
    from relaykit.hooks import hookimpl
    from relaykit.hooks.registration import Command

    def run(arguments):
        print(f"to {arguments.target} from {arguments.load_settings().relay.node}, by {__name__}")
        return 3

    PARLEY = Command(
        name="parley",
        help="copy everything",
        configure=lambda parser: parser.add_argument("target"),
        run=run,
    )

    @hookimpl
    def relaykit_register_commands():
        return [PARLEY]
"""
ANNOUNCED = "# comment\nparley = MODULE:PARLEY [extra]"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RELAYKIT_CONFIG", raising=False)
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize("before", [[], ["--config", "n1.toml"], ["--config=n1.toml"]])
@pytest.mark.parametrize("behind", [[], ["--config", "n1.toml"]])
def test_it_runs_without_any_plugin(
    work: Path, site: Site, capsys: pytest.CaptureFixture[str], before: list[str], behind: list[str]
) -> None:
    module = site.install("copies", PARLEY, announces=ANNOUNCED)
    broken = site.install("broken", "import no_such_module")
    (work / "n1.toml").write_text("[relay]\nnode = 'n1'")
    assert main([*before, "parley", "there", *behind]) == 3
    node = "n1" if before or behind else "local"
    assert capsys.readouterr() == (f"to there from {node}, by {module}_commands\n", "")
    assert not imported(module)
    assert not imported(broken)


def test_its_help_and_its_errors_are_those_of_any_command(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = site.install("copies", PARLEY, announces=ANNOUNCED)
    calls = [["parley", "--help"], ["parley"], ["parley", "x", "--bad"]]
    said = [(main(call), capsys.readouterr()) for call in calls]
    assert not imported(module)
    monkeypatch.setattr(announced, "find_command", lambda *_: None)
    assert [(main(call), capsys.readouterr()) for call in calls] == said
    assert [code for code, _ in said] == [0, 2, 2]


@pytest.mark.parametrize("call", [["--help"], ["--version"], ["-h", "parley"], []])
def test_what_is_no_call_of_a_command_goes_by_the_hooks(
    site: Site, capsys: pytest.CaptureFixture[str], call: list[str]
) -> None:
    module = site.install("copies", PARLEY, announces=ANNOUNCED)
    main(call)
    assert "parley" not in capsys.readouterr().err
    assert imported(module)
    assert not imported(f"{module}_commands")


def test_a_disabled_plugins_command_is_not_imported(
    work: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    module = site.install("copies", PARLEY, announces=ANNOUNCED)
    (work / "relaykit.toml").write_text("[relay]\ndisabled = ['copies']")
    assert main(["parley", "there"]) == 2
    assert "invalid choice: 'parley'" in capsys.readouterr().err
    assert not imported(module)
    assert not imported(f"{module}_commands")


def test_broken_settings_are_told_as_ever(work: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    module = site.install("copies", PARLEY, announces=ANNOUNCED)
    (work / "relaykit.toml").write_text("[relay]\nnode = 3")
    assert main(["parley", "there"]) == 2
    assert "relay.node: expected a string" in capsys.readouterr().err
    assert not imported(f"{module}_commands")


@pytest.mark.parametrize("name", ["serve", "plugins", "settings"])
def test_no_command_of_relaykits_own_is_taken_over(
    site: Site, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    module = site.install(
        "copies", PARLEY.replace('"parley"', f'"{name}"'), announces=f"{name} = MODULE:PARLEY"
    )
    assert main([name]) == (0 if name == "plugins" else 2)
    assert f"plugin 'copies': its command '{name}' is one of relaykit's own" in capsys.readouterr().err
    assert not imported(f"{module}_commands")


def test_a_command_that_two_announce(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", PARLEY, announces=ANNOUNCED)
    site.install("tapes", PARLEY, announces=ANNOUNCED)
    assert main(["parley", "there"]) == 2
    assert "'parley' is offered by plugin 'tapes' too" in capsys.readouterr().err


def test_a_plugin_that_two_distributions_have(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("copies", PARLEY, announces=ANNOUNCED)
    site.install("pager", distribution="acme-pager")
    site.install("pager", distribution="other-pager")
    assert main(["parley", "there"]) == 2
    assert "acme-pager" in capsys.readouterr().err


def test_one_distribution_that_is_on_the_path_twice(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("copies", PARLEY, announces=ANNOUNCED)
    again = tmp_path / "again"
    again.symlink_to(site.root)
    monkeypatch.syspath_prepend(again)
    monkeypatch.syspath_prepend(tmp_path / "no-such-directory")
    assert announced.find_command("parley", tuple) is not None


def test_a_distribution_without_a_plugin_announces_nothing(site: Site) -> None:
    module = site.install("copies", PARLEY, announces=ANNOUNCED)
    (file,) = site.root.glob("*/entry_points.txt")
    file.write_text(file.read_text().replace("[relaykit]", "[other]"))
    assert announced.find_command("parley", tuple) is None
    assert not imported(f"{module}_commands")


@pytest.mark.parametrize(
    ("entry_point", "why"),
    [
        ("parley = no_such_module:PARLEY", "ModuleNotFoundError"),
        ("parley = MODULE:NO_SUCH", "AttributeError"),
        ("parley = MODULE", "is not the command 'parley'"),
        ("parley = MODULE:run", "is not the command 'parley'"),
    ],
)
def test_one_that_cannot_be_loaded_is_told_and_taken_from_its_hook(
    site: Site,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    entry_point: str,
    why: str,
) -> None:
    module = site.install("copies", PARLEY, announces=entry_point)
    assert main(["parley", "there"]) == 3
    assert capsys.readouterr().out.endswith(f"by {module}\n")
    (warning,) = caplog.messages
    assert why in warning
    assert "relaykit-copies" in warning


def test_other_lines_and_files_are_passed_over(site: Site) -> None:
    (site.root / "empty-1.dist-info").mkdir()
    (site.root / "binary-1.egg-info").mkdir()
    (site.root / "binary-1.egg-info" / "entry_points.txt").write_bytes(b"[relaykit]\n\xff = x\n")
    site.install("copies", PARLEY, announces=f"no value\n; note\n\n{ANNOUNCED}")
    assert announced.find_command("parley", tuple) is not None
    assert announced.find_command("value", tuple) is None


# ---------------------------------------------------------------- those that are installed here


def installed() -> Mapping[str, object]:
    return {found.name: found.load() for found in metadata.entry_points(group=announced.GROUP)}


def test_what_is_announced_is_what_the_hooks_return(tmp_path: Path) -> None:
    commands = load_plugins(settings_from(tmp_path)).commands()
    assert "connect" in installed()
    assert {name: commands[name].value for name in installed()} == installed()


def test_connect_starts_without_plugins() -> None:
    watch = (
        "import sys; from relaykit.commands import main; main(['connect', 'nonsense']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", watch], stderr=subprocess.PIPE, timeout=30, check=True)
    loaded = done.stderr.decode().split()
    assert "relaykit_gateway.connect.pump" in loaded
    assert {"pluggy", "relaykit.hooks.specs", "relaykit_acp", "anyio", "ssl"} & set(loaded) == set()
