"""``relaykit service``: the unit that it writes, and what it asks systemd to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relaykit.commands import main
from relaykit.commands.unit import make_unit
from relaykit.errors import RelaykitError

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$ASKED"
[ "$*" != "--user $FAILS" ]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a working directory in it, and a systemctl that writes down what it is asked."""
    for name in [name for name in os.environ if name.startswith(("RELAYKIT_", "XDG_", "OTEL_"))]:
        monkeypatch.delenv(name)
    work = tmp_path / "my work 100%"
    programs = tmp_path / "bin"
    for directory in (work, programs):
        directory.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL)
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("FAILS", "nothing")
    monkeypatch.setenv("OPENAI_API_KEY", "hush-hush")
    monkeypatch.chdir(work)
    return tmp_path


def asked(place: Path) -> list[str]:
    """Return what systemctl was asked since the last time."""
    path = place / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_the_unit_has_the_settings_the_directory_and_the_path_of_now(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "relay.toml").write_text("")
    assert main(["--config", "../relay.toml", "service", "install", "--print", "--log-format", "json"]) == 0
    unit = capsys.readouterr().out
    config = f"{place}/my work 100%%/../relay.toml"
    assert (
        f'ExecStart="{sys.executable}" "-m" "relaykit" "--config" "{config}" "serve" "--log-format" "json"\n'
        in unit
    )
    assert f"WorkingDirectory={place}/my work 100%%\n" in unit
    assert f'Environment="PATH={place}/bin:' in unit
    assert f"EnvironmentFile=-{place}/.config/relaykit/relaykit.env\n" in unit
    assert "hush" not in unit
    assert asked(place) == []


def test_settings_in_variables_are_kept_where_they_are_paths_and_else_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "install", "--print"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("XDG_STATE_HOME", f"{place}/state")
    monkeypatch.setenv("RELAYKIT_CONFIG", f"{place}/relay.toml")
    monkeypatch.setenv("RELAYKIT_PLUGINS__GATEWAY__TOKEN", "hush-hush-hush-hush")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "key=hush")
    (place / "relay.toml").touch()
    assert main(["service", "install", "--print"]) == 0
    unit, said = capsys.readouterr()
    assert f'Environment="XDG_STATE_HOME={place}/state"\n' in unit
    assert f'Environment="RELAYKIT_CONFIG={place}/relay.toml"\n' in unit
    assert "hush" not in unit + said
    assert "variables of now: OTEL_EXPORTER_OTLP_HEADERS, RELAYKIT_PLUGINS__GATEWAY__TOKEN. " in said
    assert f"{place}/.config/relaykit/relaykit.env" in said


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="SKIPPED: systemd-analyze is not installed here"
)
def test_systemd_takes_the_unit(place: Path) -> None:
    assert main(["service", "install", "--no-start"]) == 0
    unit = place / ".config" / "systemd" / "user" / "relaykit.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "relaykit" in line]
    assert ours == [], done


def test_it_is_started_and_brought_up_to_date_and_removed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = place / ".config" / "systemd" / "user" / "second.service"
    assert main(["service", "install", "--name", "second"]) == 0
    assert asked(place) == [
        "--user daemon-reload",
        "--user enable second.service",
        "--user restart second.service",
    ]
    assert f"{unit}: written" in capsys.readouterr().out
    assert main(["service", "install", "--name", "second"]) == 0
    assert asked(place)[-1] == "--user start second.service"
    assert f"{unit}: as it was" in capsys.readouterr().out
    assert main(["service", "install", "--name", "second", "--log-format", "json"]) == 0
    assert asked(place)[-1] == "--user restart second.service"
    assert main(["service", "remove", "--name", "second"]) == 0
    assert asked(place) == ["--user disable --now second.service", "--user daemon-reload"]
    assert not unit.exists()


def test_what_systemd_refuses_is_passed_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "enable relaykit.service")
    assert main(["service", "install"]) == 1
    assert asked(place)[-1] == "--user enable relaykit.service"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["service", "remove"], "there is no "),
        (["service", "install", "--name", "../x"], "'../x' is no name for a unit"),
        (["--config", "missing.toml", "service", "install"], "missing.toml"),
    ],
)
def test_what_cannot_be_done_is_said(
    place: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert asked(place) == []
    assert not (place / ".config").exists()


def test_without_systemd_it_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(place / "nowhere"))
    assert main(["service", "install"]) == 2
    assert "a service needs systemd" in capsys.readouterr().err


def test_words_are_kept_apart_and_nothing_is_read_into_them() -> None:
    unit = make_unit(
        name="x",
        command=["/bin/a b", 'say "$HOME" 50% \\'],
        directory=Path("/w"),
        environment={"PATH": "/a b:$x"},
        secrets=Path("/s"),
    )
    assert 'ExecStart="/bin/a b" "say \\"$$HOME\\" 50%% \\\\"\n' in unit
    assert 'Environment="PATH=/a b:$x"\n' in unit


@pytest.mark.parametrize("directory", ["/a\nExecStartPre=/bin/rm", "/it's", '/"', "/x\\"])
def test_what_cannot_stand_in_a_unit_is_refused(directory: str) -> None:
    with pytest.raises(RelaykitError, match="cannot stand in a systemd unit"):
        make_unit(name="x", command=["/a"], directory=Path(directory), environment={}, secrets=Path("/s"))
