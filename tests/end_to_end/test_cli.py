from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.programs import Place

COMMANDS = {
    *("serve", "doctor", "plugins", "settings", "service", "new-plugin"),
    *("apply", "commit", "diff", "push", "worktrees"),
    *("agents", "backup", "chat", "connect", "demo", "metrics", "run", "sessions", "tokens", "transcript"),
}
PLUGINS = {"relaykit", "acp", "gateway", "prometheus", "worktree"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_help_lists_the_commands_of_relaykit_and_of_its_plugins(place: Place) -> None:
    done = place.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"^    ([a-z-]+) +\S", done.stdout, re.MULTILINE)) == COMMANDS
    assert "missing" not in done.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(place: Place, command: str) -> None:
    done = place.run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: relaykit {command}")


def test_plugins_are_all_loaded(place: Place) -> None:
    done = place.run("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["NAME", "VERSION", "STATE", "HOOKS", "WHY"]
    assert {row.split()[0] for row in rows} >= PLUGINS
    assert {row.split()[2] for row in rows if row.split()[0] in PLUGINS} == {"loaded"}
    by_name = {record["name"]: record for record in json.loads(place.run("plugins", "--json").stdout)}
    assert "relaykit_register_meter" in by_name["prometheus"]["hooks"]
    assert "relaykit_register_commands" in by_name["gateway"]["hooks"]


def test_a_disabled_plugin_is_blocked_and_takes_its_commands_along(place: Place) -> None:
    (place.work / "relaykit.toml").write_text('[relay]\ndisabled = ["gateway"]\n')
    assert re.search(
        r"^gateway .* blocked .*disabled in \[relay\]$", place.run("plugins").stdout, re.MULTILINE
    )
    assert "demo" not in place.run("--help").stdout


def test_settings_say_where_each_value_comes_from(place: Place) -> None:
    (place.work / "relaykit.toml").write_text("[plugins.gateway]\nport = 8080\n")
    done = place.run("settings", "--json", RELAYKIT_RELAY__WORKSPACE="directory")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["key"]: row for row in json.loads(done.stdout)}
    shown = {
        key: (rows[key]["value"], rows[key]["origin"], rows[key]["owner"])
        for key in ("relay.storage", "relay.workspace", "plugins.gateway.port", "plugins.acp.eof_grace")
    }
    assert shown == {
        "relay.storage": ('""', "default", "relaykit"),
        "relay.workspace": ('"directory"', "RELAYKIT_RELAY__WORKSPACE", "relaykit"),
        "plugins.gateway.port": ("8080", str(place.work / "relaykit.toml"), "gateway"),
        "plugins.acp.eof_grace": ("2.0", "default", "acp"),
    }
    table = place.run("settings").stdout.splitlines()
    assert table[0].split() == ["KEY", "TYPE", "VALUE", "DEFAULT", "ORIGIN", "OWNER"]
    assert len(table) == len(rows) + 1


def test_settings_show_no_secret(place: Place) -> None:
    for arguments in (("settings",), ("settings", "--json")):
        done = place.run(*arguments, RELAYKIT_PLUGINS__GATEWAY__TOKEN="hush-hush-hush-hush")
        assert done.returncode == 0
        assert "***" in done.stdout
        assert "hush" not in done.stdout


def test_a_wrong_setting_is_named(place: Place) -> None:
    done = place.run("settings", RELAYKIT_PLUGINS__GATEWAY__PROT="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "plugins.gateway.prot" in done.stderr
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr
