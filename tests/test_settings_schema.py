"""`relaykit settings --json-schema`: what it says of relaykit.toml."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from relaykit.commands import main
from relaykit.settings import Where, describe, setting
from relaykit.settings.schema import json_schema
from support.plugin_sites import settings_from
from support.settings_tables import Everything, Guarded

GOOD = """
[relay]
storage = "sqlite"
disabled = ["prometheus"]
idle_timeout = 60

[projects.shop]
path = "~/src/shop"

[agents.claude]
command = ["claude-agent-acp"]
mcp_servers = [{ name = "files", command = "files-mcp", args = [], env = [] }]

[[permissions]]
action = "allow"
kind = "read"

[[hooks]]
name = "first"

[plugins.actions]
retries = 1
[[plugins.actions.steps]]
name = "one"

[plugins.x]
mode = "safe"
colour = "dark-blue"
labels = { a = "b" }
maybe_whole = 7

[plugins.y]
token = "hush"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A table of a list."""

    name: str = setting(help="what it is called")
    where: Where = Where()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Two lists, one of them at the top of the file."""

    retries: int = setting(0, help="how often")
    hooks: tuple[Step, ...] = setting((), help="at the top")
    steps: tuple[Step, ...] = setting((), help="in the plugin's own table")


@pytest.fixture
def schema() -> Any:
    found = json_schema({"x": Everything, "y": Guarded, "actions": Listing})
    jsonschema.Draft7Validator.check_schema(found)
    return found


def is_valid(schema: Any, toml: str) -> bool:
    return bool(jsonschema.Draft7Validator(schema).is_valid(tomllib.loads(toml)))


def test_what_relaykit_takes_is_valid(schema: Any, tmp_path: Path) -> None:
    settings = settings_from(tmp_path, GOOD)
    settings.plugin("x", Everything)
    settings.plugin("y", Guarded)
    settings.plugin("actions", Listing)
    assert is_valid(schema, GOOD)


@pytest.mark.parametrize(
    "toml",
    [
        "[relay]\nstorag = 'sqlite'",
        "[relay]\nidle_timeout = 'long'",
        "[projects.shop]",
        "[agents.claude]\ncommand = 'claude'",
        "[[permissions]]\naction = 'perhaps'",
        "[plugins.x]\nmode = 'slow'",
        "[plugins.x]\nwhole = 1.5",
        "[plugins.x]\nlabels = { a = 1 }",
        "[nothing]",
        "[[hooks]]",
        "[[hooks]]\nname = 'a'\nnom = 'b'",
        "[[hooks]]\nname = 'a'\nwhere = { table = 'hooks[1]' }",
        "[hooks]\nname = 'a'",
        "[[plugins.actions.hooks]]\nname = 'a'",
        "[[plugins.actions.steps]]",
    ],
)
def test_what_relaykit_refuses_is_not(schema: Any, toml: str) -> None:
    assert not is_valid(schema, toml)


def test_every_key_is_explained_and_no_secret_has_a_default(schema: Any, tmp_path: Path) -> None:
    text = json.dumps(schema)
    assert "built-in" not in text
    for row in describe(settings_from(tmp_path, ""), {"x": Everything, "y": Guarded}):
        assert f'"{row.key.rpartition(".")[2]}": {{' in text
        assert json.dumps(row.help) in text


def test_the_command_prints_that_of_all_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["settings", "--json-schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft7Validator.check_schema(found)
    assert {"acp", "gateway", "sqlite", "worktree"} <= set(found["properties"]["plugins"]["properties"])
