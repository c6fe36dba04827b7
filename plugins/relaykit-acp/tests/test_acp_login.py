"""Agents that want a login: whose command is named, and when."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import LoginRequired
from support.acp_agents import Recorder, launcher, new_session
from support.agent_programs import ECHO_SCRIPT, install
from support.relays import active_session, following, running_relay


async def login_named(spec: AgentSpec, cwd: Path) -> str | None:
    """Launch an agent that wants a login: return the command that the error names."""
    async with launcher() as opened:
        with anyio.fail_after(20), pytest.raises(LoginRequired) as caught:
            await opened.launch(spec, new_session(), cwd, Recorder())
    return caught.value.login


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("program", "settings_say", "also_here", "named"),
    [
        ("gemini", None, (), "gemini"),
        ("opencode", None, (), "opencode auth login"),
        ("opencode", "ask Ann", (), "ask Ann"),
        ("claude-agent-acp", None, ("claude",), "claude /login"),
        ("claude-agent-acp", None, ("npx",), "npx --yes @anthropic-ai/claude-code /login"),
        ("whatever", None, ("npx",), None),
        ("whatever", "whatever --login", (), "whatever --login"),
    ],
)
async def test_settings_say_how_or_else_the_table_does(
    tmp_path: Path, program: str, settings_say: str | None, also_here: tuple[str, ...], named: str | None
) -> None:
    install(tmp_path, program, *also_here, script=f"{ECHO_SCRIPT} --login-required")
    env = {"PATH": str(tmp_path)}  # whatever else this machine has
    assert await login_named(AgentSpec("mine", (program,), env, login=settings_say), tmp_path) == named


@pytest.mark.anyio
async def test_a_configured_agent_whose_command_is_known_has_its_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install(tmp_path / "bin", "goose", script=f"{ECHO_SCRIPT} --login-required")
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    async with running_relay(tmp_path, toml='[agents.bird]\ncommand = ["goose", "acp"]\n') as relay:
        session = await relay.create("auth")
        async with following(relay, session.id) as client:
            last = await client.until_notice("ended")
        assert last == {
            "cause": "SPAWN_FAILED",
            "reason": "agent 'bird': login needed: Authentication required; run `goose configure`, then try again",
            "cleanup": last["cleanup"],
        }


def test_the_agents_own_words_are_a_part_of_the_sentence() -> None:
    error = LoginRequired("Gemini API key is missing or not configured.", agent="gemini", login="gemini")
    assert str(error) == (
        "agent 'gemini': login needed: Gemini API key is missing or not configured; run `gemini`, then try again"
    )


@pytest.mark.anyio
async def test_a_login_between_two_prompts_is_enough(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        live = relay.live(client.session_id)
        await client.say("/login", "t1")
        end = (await client.until_turn_end("t1")).frame
        assert json.loads(end.body)["code"] == -32000
        assert live.needs_login
        assert (await relay.require(client.session_id)).state == "ACTIVE"
        await client.say("hello again", "t2")
        await client.until_said("hello again")
        assert not (await client.until_turn_end("t2")).frame.failed
        assert not live.needs_login
