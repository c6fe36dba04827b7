"""The table of known agents: what is found, what is offered, and who gets what unasked."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

import relaykit_acp
from relaykit.hooks.registration import PluginContext
from relaykit.meter import NO_METER
from relaykit.relay.defaults import default_agent
from relaykit.settings import load_settings
from relaykit.testing import FakeClock, FakeIds
from relaykit_acp.finding import ECHO, Login, find_agents, login_command, login_state, offered_agents
from relaykit_acp.known_agents import KNOWN_AGENTS, KnownAgent, known_agent
from relaykit_acp.npx import parse_npx
from relaykit_acp.settings import AcpSettings
from support.agent_programs import install
from support.programs import Place
from support.relays import active_session, running_relay

README = Path(__file__).parent.parent / "README.md"


def known(name: str) -> KnownAgent:
    (found,) = (agent for agent in KNOWN_AGENTS if agent.name == name)
    return found


def offered(bin_: Path) -> list[str]:
    return list(offered_agents({"PATH": str(bin_)}))


# ---------------------------------------------------------------- the table


def test_names_are_unique_and_are_names_that_settings_take() -> None:
    names = [agent.name for agent in KNOWN_AGENTS]
    assert len(names) == len(set(names)) == 11
    environ = {f"RELAYKIT_AGENTS__{name.upper().replace('-', '_')}__COMMAND": '["x"]' for name in names}
    assert len(load_settings(environ={"HOME": "/", **environ}, cwd=Path("/")).agents) == len(names)
    assert ECHO.name not in names


@pytest.mark.parametrize("agent", KNOWN_AGENTS, ids=lambda agent: agent.name)
def test_each_is_known_again_by_its_command(agent: KnownAgent) -> None:
    assert known_agent(agent.command) is agent
    assert known_agent((f"/opt/bin/{agent.command[0]}", "--more")) is agent
    if agent.package is not None:
        through_npx = parse_npx(("npx", "--yes", agent.package))
        assert through_npx is not None, "the package's name is one that is recognised"
        assert through_npx.name != agent.package, "it is pinned"
        assert known_agent(("npx", "-y", through_npx.name)) is agent
        assert known_agent(("npx", "-y", "-p", through_npx.name, "--", agent.command[0])) is agent


@pytest.mark.parametrize("command", [ECHO.command, ("npx",), ("npx", "-y", "gemini"), ("python", "gemini")])
def test_other_commands_are_no_known_agents(command: tuple[str, ...]) -> None:
    assert known_agent(command) is None


def test_the_readme_has_a_row_for_each() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `")]
    for agent in KNOWN_AGENTS:
        package = f"`{agent.package}`" if agent.package else ""
        login = f"`{' '.join(agent.login)}`" if agent.login else ""
        variables = ", ".join(f"`{name}`" for name in agent.variables)
        command = f"`{' '.join(agent.command)}`"
        assert f"| `{agent.name}` | {agent.title} | {command} | {package} | {login} | {variables} |" in rows


# ---------------------------------------------------------------- what is found


def test_what_is_on_path_is_started_from_there(tmp_path: Path) -> None:
    install(tmp_path, "goose", "gemini", "other")
    found = find_agents({"PATH": str(tmp_path)})
    assert [(agent.spec.name, agent.spec.command, agent.path) for agent in found] == [
        ("gemini", ("gemini", "--acp"), str(tmp_path / "gemini")),
        ("goose", ("goose", "acp"), str(tmp_path / "goose")),
    ]
    assert [agent.spec.login for agent in found] == ["gemini", "goose configure"]
    assert all(agent.spec.env == {} for agent in found)  # nothing is passed on unasked


def test_what_is_not_comes_through_npx_where_that_is(tmp_path: Path) -> None:
    install(tmp_path, "npx", "opencode")
    found = {agent.spec.name: agent for agent in find_agents({"PATH": str(tmp_path)})}
    assert found.keys() == {agent.name for agent in KNOWN_AGENTS if agent.package} | {"opencode"}
    assert found["opencode"].spec.command == ("opencode", "acp")
    assert found["gemini"].spec.command == ("npx", "--yes", "@google/gemini-cli@0", "--acp")
    assert found["gemini"].path is None


def test_what_is_no_program_is_not_found(tmp_path: Path) -> None:
    install(tmp_path, "gemini").joinpath("gemini").chmod(0o644)
    assert find_agents({"PATH": str(tmp_path)}) == []
    assert find_agents({"PATH": str(tmp_path / "missing")}) == []


@pytest.mark.parametrize(
    ("programs", "first"),
    [
        ((), ["echo"]),
        (("goose", "qwen"), ["qwen", "goose", "echo"]),
        (("claude-agent-acp", "gemini"), ["claude", "gemini", "echo"]),
        (("npx",), ["echo", "claude", "gemini"]),  # nobody gets 100 MB unasked
        (("npx", "codex"), ["codex", "echo", "claude"]),  # who has Codex gets its adapter
        (("codex",), ["echo"]),  # and without npx there is no adapter
        (("npx", "goose"), ["goose", "echo", "claude"]),
    ],
)
def test_what_is_used_here_is_offered_before_echo_and_what_npx_could_fetch_behind(
    tmp_path: Path, programs: tuple[str, ...], first: list[str]
) -> None:
    assert offered(install(tmp_path, *programs))[: len(first)] == first
    none = load_settings(environ={"HOME": "/"}, cwd=tmp_path)
    assert default_agent(none, offered(tmp_path)) == first[0]


def test_the_setting_leaves_them_all_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(install(tmp_path, "gemini")))
    context = PluginContext(
        name="acp",
        settings=AcpSettings(),
        projects={},
        agents={},
        state_dir=tmp_path,
        node="n1",
        clock=FakeClock(),
        ids=FakeIds(),
        meter=NO_METER,
    )
    assert list(relaykit_acp.relaykit_register_agents(context)) == ["gemini", "echo"]
    silent = replace(context, settings=AcpSettings(known_agents=False))
    assert list(relaykit_acp.relaykit_register_agents(silent)) == ["echo"]


# ---------------------------------------------------------------- logging in


@pytest.mark.parametrize(
    ("programs", "name", "command"),
    [
        (("claude",), "claude", "claude /login"),
        (("npx",), "claude", "npx --yes @anthropic-ai/claude-code /login"),
        (("npx",), "kimi", "npx --yes @moonshot-ai/kimi-code@2 login"),
        (("npx", "kimi"), "kimi", "kimi login"),
        ((), "codex", "codex login"),
        (("npx",), "goose", "goose configure"),
        (("npx",), "fast-agent", None),
    ],
)
def test_the_login_command_is_one_that_works_here(
    tmp_path: Path, programs: tuple[str, ...], name: str, command: str | None
) -> None:
    assert login_command(known(name), {"PATH": str(install(tmp_path, *programs))}) == command


def test_the_login_state_is_told_by_files_and_by_what_settings_pass_on(tmp_path: Path) -> None:
    assert login_state(known("auggie"), {}, tmp_path) is Login.MISSING
    assert login_state(known("codex"), {}, tmp_path) is Login.UNTOLD  # it may keep them in a keyring
    assert login_state(known("copilot"), {}, tmp_path) is Login.UNTOLD
    assert login_state(known("codex"), {"OPENAI_API_KEY": "k"}, tmp_path) is Login.DONE
    assert login_state(known("codex"), {"OPENAI_API_KEY": ""}, tmp_path) is Login.UNTOLD
    (tmp_path / ".augment").mkdir()
    (tmp_path / ".augment" / "session.json").touch()
    assert login_state(known("auggie"), {}, tmp_path) is Login.DONE


# ---------------------------------------------------------------- over the relay


@pytest.mark.anyio
async def test_with_no_settings_a_session_gets_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(install(tmp_path / "bin", "gemini", "goose")))
    async with running_relay(tmp_path, PLUGINS__ACP__KNOWN_AGENTS="true") as relay:
        assert list(relay.agents) == ["gemini", "goose", "echo"]
        assert relay.agent().name == "gemini"
        async with active_session(relay, agent="") as client:
            session = await relay.require(client.session_id)
            assert session.agent == "gemini"
            assert session.resources["acp"]["command"] == ("gemini", "--acp")
            await client.say("hello", "t1")
            assert not (await client.until_turn_end("t1")).frame.failed


@pytest.mark.anyio
async def test_what_is_found_takes_nothing_from_what_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{install(tmp_path / 'bin', 'gemini', 'goose')}:{os.environ['PATH']}")
    toml = '[agents.goose]\ncommand = ["goose", "acp", "--mine"]\n'
    async with running_relay(tmp_path, toml=toml, PLUGINS__ACP__KNOWN_AGENTS="true") as relay:
        assert relay.agent().name == "goose"
        assert relay.agent().command == ("goose", "acp", "--mine")
        assert relay.agent("gemini").command == ("gemini", "--acp")


def test_the_demo_starts_no_agent_of_yours(tmp_path: Path) -> None:
    place = Place(tmp_path)
    trap = tmp_path / "trapped"
    bin_ = install(tmp_path / "bin", *(agent.command[0] for agent in KNOWN_AGENTS), script=f"touch {trap}")
    path = f"{bin_}:{os.environ['PATH']}"
    listed = place.run("agents", PATH=path, RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS="true")
    assert "claude *" in listed.stdout  # it would be the default
    done = place.run("demo", PATH=path, RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS="true", seconds=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not trap.exists()
