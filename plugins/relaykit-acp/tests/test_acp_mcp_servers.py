"""MCP servers from settings: what an agent is given in ``session/new``, and what is shown of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relaykit.settings import describe, load_settings
from support.agent_programs import ECHO_SCRIPT, install
from support.programs import Place
from support.relays import active_session, running_relay

TOML = """
[agents.tools]
command = ["PROGRAM"]

[[agents.tools.mcp_servers]]
name = "files"
command = "/usr/local/bin/files-mcp"
args = ["--root", "/srv/ä"]
env = [{ name = "FILES_TOKEN", value = "tell-nobody" }]

[[agents.tools.mcp_servers]]
type = "http"
name = "tickets"
url = "https://tickets.example/mcp"
headers = [{ name = "Authorization", value = "Bearer tell-nobody" }]
_meta = { "example.com/depth" = 3, exact = true }
"""
SERVERS: list[dict[str, Any]] = [
    {
        "name": "files",
        "command": "/usr/local/bin/files-mcp",
        "args": ["--root", "/srv/ä"],
        "env": [{"name": "FILES_TOKEN", "value": "tell-nobody"}],
    },
    {
        "type": "http",
        "name": "tickets",
        "url": "https://tickets.example/mcp",
        "headers": [{"name": "Authorization", "value": "Bearer tell-nobody"}],
        "_meta": {"example.com/depth": 3, "exact": True},
    },
]


def toml(tmp_path: Path) -> tuple[str, Path]:
    """Return settings with an agent that keeps what it hears, and where."""
    heard = tmp_path / "heard"
    program = install(tmp_path / "bin", "tools", script=f"tee {heard} | {ECHO_SCRIPT}") / "tools"
    return TOML.replace("PROGRAM", str(program)), heard


@pytest.mark.anyio
async def test_they_are_in_session_new_as_they_are_in_settings(tmp_path: Path) -> None:
    text, heard = toml(tmp_path)
    own = {"type": "http", "name": "own", "url": "https://own.example", "headers": []}
    async with running_relay(tmp_path, toml=text) as relay:
        async with active_session(relay, "auth", agent="tools"):
            assert new_session(heard)["mcpServers"] == SERVERS
        session = await relay.create("tests", agent="tools", mcp_servers=[own])
        live = relay.live(session.id)
        assert list(live.spec.mcp_servers) == [*SERVERS, own]
        assert list(relay.agent("tools").mcp_servers) == SERVERS  # the next session has its own


def new_session(heard: Path) -> dict[str, Any]:
    (line,) = [line for line in heard.read_text().splitlines() if '"session/new"' in line]
    params: dict[str, Any] = json.loads(line)["params"]
    return params


@pytest.mark.anyio
async def test_an_agent_without_any_is_given_an_empty_list(tmp_path: Path) -> None:
    text, heard = toml(tmp_path)
    async with (
        running_relay(tmp_path, toml=text.partition("[[")[0]) as relay,
        active_session(relay, "auth", agent="tools"),
    ):
        assert new_session(heard)["mcpServers"] == []


def test_what_is_shown_has_the_names_of_variables_and_headers_and_not_their_values(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (place.work / "relaykit.toml").write_text(TOML)
    shown = place.run("settings", "--json")
    assert shown.returncode == 0
    (row,) = [row for row in json.loads(shown.stdout) if row["key"] == "agents.tools.mcp_servers"]
    assert row["value"] == (
        '[{"name" = "files", "command" = "/usr/local/bin/files-mcp", "args" = ["--root", "/srv/ä"], '
        '"env" = [{"name" = "FILES_TOKEN", "value" = "***"}]}, '
        '{"type" = "http", "name" = "tickets", "url" = "https://tickets.example/mcp", '
        '"headers" = [{"name" = "Authorization", "value" = "***"}], '
        '"_meta" = {"example.com/depth" = 3, "exact" = true}}]'
    )
    for output in (shown, place.run("settings"), place.run("agents", "--json")):
        assert "tell-nobody" not in output.stdout + output.stderr


@pytest.mark.parametrize("env", ['{ TOKEN = "tell-nobody" }', '["TOKEN=tell-nobody"]', '"tell-nobody"'])
def test_what_is_no_list_of_pairs_is_not_shown_at_all(tmp_path: Path, env: str) -> None:
    environ = {
        "HOME": str(tmp_path),
        "RELAYKIT_AGENTS__TOOLS__COMMAND": '["x"]',
        "RELAYKIT_AGENTS__TOOLS__MCP_SERVERS": f"[{{ name = 'a', env = {env} }}]",
    }
    settings = load_settings(environ=environ, cwd=tmp_path)
    (row,) = [row for row in describe(settings, {}) if row.key == "agents.tools.mcp_servers"]
    assert row.value == '[{"name" = "a", "env" = "***"}]'
    assert "tell-nobody" not in repr(settings)
    assert "tell-nobody" not in repr(settings.agents)
