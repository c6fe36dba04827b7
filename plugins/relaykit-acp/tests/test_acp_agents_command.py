"""``relaykit agents``, as people run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relaykit_acp.known_agents import KNOWN_AGENTS
from support.agent_programs import install
from support.programs import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def agents(place: Place, *options: str, path: Path, **variables: str) -> str:
    """Run it with a PATH of one directory, and return what it prints."""
    variables.setdefault("RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS", "true")
    done = place.run("agents", *options, typed="", seconds=30, PATH=str(path), **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def as_json(place: Place, *options: str, path: Path, **variables: str) -> dict[str, dict[str, Any]]:
    listed = json.loads(agents(place, "--json", *options, path=path, **variables))
    return {agent["name"]: agent for agent in listed}


def cells(listed: str) -> dict[str, list[str]]:
    """Return the columns of each agent's row, cut where the header's begin."""
    header, *rows = listed.partition("\n\n")[0].splitlines()
    starts = [header.index(title) for title in header.replace("INSTALL OR LOG IN", "INSTALL").split()]
    ends = [*starts[1:], None]
    found = [[row[start:end].strip() for start, end in zip(starts, ends, strict=True)] for row in rows]
    return {row[0]: row[1:] for row in found}


def test_what_is_here_and_what_is_not(place: Place, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "auggie", "gemini", "npx")
    credentials = place.home / ".gemini" / "oauth_creds.json"
    credentials.parent.mkdir()
    credentials.touch()
    listed = agents(place, path=path)
    rows = cells(listed)
    assert rows["gemini *"] == [str(path / "gemini"), "logged in", ""]
    assert rows["auggie"] == [str(path / "auggie"), "no login found", "auggie login"]
    assert rows["opencode"] == [
        "through npx, fetched at first use: opencode-ai@1",
        "",
        "npx --yes opencode-ai@1 auth login",
    ]
    assert rows["mistral-vibe"] == ["not found", "", "uv tool install mistral-vibe"]
    assert list(rows)[-1] == "echo"
    assert len(rows) == len(KNOWN_AGENTS) + 1
    assert listed.endswith("\n\n* the agent of sessions that name none\n")


def test_without_npx_it_says_how_to_install_them(place: Place, tmp_path: Path) -> None:
    rows = cells(agents(place, path=install(tmp_path / "bin")))
    assert rows["claude"][0] == "not found"
    assert rows["claude"][-1] == "npm install -g @agentclientprotocol/claude-agent-acp"
    assert "echo *" in rows


def test_configured_agents_come_first_and_replace_known_ones(place: Place, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "auggie", "mine")
    (place.work / "relaykit.toml").write_text(
        '[relay]\ndefault_agent = "mine"\n'
        '[agents.auggie]\ncommand = ["auggie", "--acp"]\nenv = ["AUGMENT_SESSION_AUTH"]\n'
        '[agents.mine]\ncommand = ["mine"]\nlogin = "mine login"\n'
        '[agents.gone]\ncommand = ["gone"]\n'
        '[agents.fetched]\ncommand = ["npx", "-y", "@google/gemini-cli"]\n'
    )
    listed = as_json(place, path=path, AUGMENT_SESSION_AUTH="{}")
    assert list(listed)[:4] == ["auggie", "mine", "gone", "fetched"]
    assert [name for name, agent in listed.items() if agent["configured"]] == list(listed)[:4]
    assert [name for name, agent in listed.items() if agent["default"]] == ["mine"]
    assert len(listed) == len(KNOWN_AGENTS) + 1 + 3
    assert listed["auggie"]["login"] == "logged in"  # by a variable that is passed on
    assert (listed["mine"]["found"], listed["mine"]["login_command"]) == (True, "mine login")
    assert (listed["gone"]["found"], listed["gone"]["install"]) == (
        False,
        "correct `command` in [agents.gone]",
    )
    assert listed["fetched"]["title"] == "Gemini CLI"
    assert listed["fetched"]["found"] is False  # without npx
    assert as_json(place, path=path)["auggie"]["login"] == "no login found"


def test_the_fields_of_the_json(place: Place, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "codex-acp")
    assert as_json(place, path=path)["codex"] == {
        "name": "codex",
        "title": "Codex",
        "configured": False,
        "command": ["codex-acp"],
        "found": True,
        "path": str(path / "codex-acp"),
        "package": None,
        "login": "",
        "login_command": "codex login",
        "install": "npm install -g @agentclientprotocol/codex-acp",
        "variables": ["CODEX_API_KEY", "OPENAI_API_KEY"],
        "default": True,
        "version": "",
    }


def test_versions_are_asked_for_all_at_once_and_who_says_none_has_none(place: Place, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "gemini", script='test "$*" = --version && echo 0.61.0')
    install(path, "opencode", script="echo opencode v1.18.33-beta.1; echo noise >&2")
    install(path, "goose", script="echo no such option; exit 1")
    install(path, "qwen", script="exec /bin/sleep 600")
    install(path, "auggie", script="/bin/sleep 600 & echo 1.0")
    install(path, "mine", script="echo 9.9.9")
    (path / "kimi").write_bytes(b"\x00 neither a script nor a binary")
    (path / "kimi").chmod(0o755)
    listed = as_json(place, "--versions", path=path, RELAYKIT_AGENTS__MINE__COMMAND='["mine"]')
    versions = {name: agent["version"] for name, agent in listed.items() if agent["version"]}
    assert versions == {"gemini": "0.61.0", "opencode": "1.18.33-beta.1", "auggie": "1.0"}
    assert place.processes() == []


def test_the_column_of_versions_is_there_if_asked_for(place: Place, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "gemini", script="echo 0.61.0")
    assert "VERSION" not in agents(place, path=path)
    assert cells(agents(place, "--versions", path=path))["gemini *"][1] == "0.61.0"


def test_known_agents_that_are_not_offered_are_not_listed(place: Place, tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "gemini")
    listed = as_json(place, path=path, RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS="false")
    assert list(listed) == ["echo"]
