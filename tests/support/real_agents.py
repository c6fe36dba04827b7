"""Agents of other makers, as they come from npm, with a model that runs on loopback: no key, no account."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

VARIABLE = "RELAYKIT_REAL_AGENTS"
NAMES = ("opencode", "claude", "qwen")

_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "opencode": ("opencode", "acp"),
    "claude": ("claude-agent-acp",),
    "qwen": ("qwen", "--acp", "--auth-type", "openai"),
}


def installed() -> Path:
    """Return the ``node_modules`` that ``.ci/real-agents`` made, or skip the test and say how to get it."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        pytest.skip(f"real agents are not installed: export {VARIABLE}=$(.ci/real-agents)")
    modules = Path(directory) / "node_modules"
    assert modules.is_dir(), f"{VARIABLE} names a directory without node_modules: {directory}"
    return modules


def command_of(name: str, home: Path, model: str) -> list[str]:
    """Return the command that runs an agent against a model, with a home of its own; skip if it is missing.

    :param home: an empty directory.
    :param model: the URL of a `ModelStub`.
    """
    program, *arguments = _PROGRAMS[name]
    home.mkdir(exist_ok=True)
    # `env` makes way for the program: there is no process between it and the relay.
    variables = {"HOME": str(home), **_environment(name, home, model)}
    xdg = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
    given = [f"{key}={value}" for key, value in (variables | xdg).items()]
    return ["env", *given, str(installed() / ".bin" / program), *arguments]


def agent_toml(name: str, home: Path, model: str) -> str:
    """Return the settings of a relay that knows this agent by its name."""
    return f"[agents.{name}]\ncommand = {json.dumps(command_of(name, home, model))}\n"


def _environment(name: str, home: Path, model: str) -> dict[str, str]:
    match name:
        case "opencode":
            return {
                "OPENCODE_CONFIG_CONTENT": json.dumps(_opencode_config(model)),
                "OPENCODE_DISABLE_AUTOUPDATE": "1",
                "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
                "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
            }
        case "claude":
            settings = home / ".claude" / "settings.json"
            settings.parent.mkdir(exist_ok=True)
            settings.write_text(json.dumps({"permissions": {"defaultMode": "default"}}))
            return {
                "ANTHROPIC_API_KEY": "none",
                "ANTHROPIC_BASE_URL": model,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "IS_SANDBOX": "1",  # else it refuses to be root's
            }
        case _:
            settings = home / ".qwen" / "settings.json"
            settings.parent.mkdir(exist_ok=True)
            settings.write_text(json.dumps({"tools": {"approvalMode": "default"}}))
            return {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{model}/v1", "OPENAI_MODEL": "stub"}


def _opencode_config(model: str) -> dict[str, object]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{model}/v1", "apiKey": "none"},
        "models": {"stub": {"tool_call": True, "limit": {"context": 100_000, "output": 1_000}}},
    }
    return {
        "model": "stub/stub",
        "small_model": "stub/stub",
        "enabled_providers": ["stub"],
        "provider": {"stub": provider},
        "permission": {"bash": "ask", "edit": "ask"},
        "share": "disabled",
    }
