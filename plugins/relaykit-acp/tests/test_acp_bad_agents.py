"""Agents that behave badly. Each gives an error of its own, with a text that a stranger could act on."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import AgentExited, AgentProtocolError, InitializeTimeout, LoginRequired, SpawnError
from relaykit_acp.settings import AcpSettings
from support.acp_agents import QUICK, Recorder, launcher, new_session, survivors
from support.agent_programs import ECHO_SCRIPT, install
from support.relays import active_session, ended, following, nothing_is_left, running_relay

pytestmark = pytest.mark.anyio

# What kimi-cli does since it was retired.
RETIRED = """\
cat <<'END'
Kimi CLI has been archived and is no longer maintained.
It has been replaced by Kimi Code CLI: curl -fsSL https://code.kimi.com/kimi-code/install.sh | bash
END
exit 0"""
# What codex-acp does without a key: it says so at session/new.
LOGGED_OUT = f"{ECHO_SCRIPT} --login-required"
GARBAGE = 'for line in 1 2 3 4 5 6; do echo "<html>$line</html>"; done; exec sleep 600'
SILENCE = "exec sleep 600"
WRONG = """echo '{"jsonrpc":"2.0","id":1,"result":"hello"}'; exec cat >/dev/null"""

IMPATIENT = replace(QUICK, initialize_timeout=1.0)

# What is started, the kind of error, and the whole of what it says.
BAD = [
    pytest.param(
        ("kimi", "acp"),
        RETIRED,
        AgentExited,
        "agent 'bad': it exited with 0 before it was ready; its last words were:\n"
        "Kimi CLI has been archived and is no longer maintained.\n"
        "It has been replaced by Kimi Code CLI: curl -fsSL https://code.kimi.com/kimi-code/install.sh | bash",
        id="kimi-cli, which has retired",
    ),
    pytest.param(
        ("codex-acp",),
        LOGGED_OUT,
        LoginRequired,
        "agent 'bad': login needed: Authentication required; run `codex login`, then try again",
        id="codex, without a key",
    ),
    pytest.param(
        ("garbage",),
        GARBAGE,
        InitializeTimeout,
        "agent 'bad': no answer to 'initialize' within 1 s: does its command speak ACP on stdio?; "
        "its last words were:\n" + "\n".join(f"<html>{line}</html>" for line in (2, 3, 4, 5, 6)),
        id="one that writes garbage",
    ),
    pytest.param(
        ("wrong",),
        WRONG,
        AgentProtocolError,
        "agent 'bad': its answer to 'initialize' is not what ACP says: Expected `object`, got `str`",
        id="one that answers garbage",
    ),
    pytest.param(
        ("silence",),
        SILENCE,
        InitializeTimeout,
        "agent 'bad': no answer to 'initialize' within 1 s: does its command speak ACP on stdio?",
        id="one that never answers",
    ),
]


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the agents are; Codex itself, which logs in its adapter, is there too."""
    directory = install(tmp_path / "bin", "codex", script="exit 1")
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


@pytest.mark.parametrize(("command", "script", "kind", "text"), BAD)
async def test_the_launcher_says_what_is_wrong(
    bin_: Path, command: tuple[str, ...], script: str, kind: type[SpawnError], text: str
) -> None:
    program = install(bin_, command[0], script=script) / command[0]
    spec = AgentSpec(name="bad", command=(str(program), *command[1:]))
    session = new_session()
    async with launcher(_settings(kind)) as opened:
        with anyio.fail_after(20), pytest.raises(SpawnError) as caught:
            await opened.launch(spec, session, bin_, Recorder())
        assert type(caught.value) is kind
        assert str(caught.value) == text
        assert await survivors(session) == []


async def test_a_profile_is_refused_with_the_same_words(bin_: Path) -> None:
    install(bin_, "kimi", script=RETIRED)
    async with launcher() as opened:
        with anyio.fail_after(20), pytest.raises(AgentExited, match="has been replaced by Kimi Code CLI"):
            await opened.profile(AgentSpec(name="bad", command=("kimi", "acp")))


async def test_what_an_agent_is_it_says_logged_in_or_not(bin_: Path) -> None:
    install(bin_, "codex-acp", script=LOGGED_OUT)
    async with launcher() as opened:
        with anyio.fail_after(20):
            profile = await opened.profile(AgentSpec(name="bad", command=("codex-acp",)))
    assert profile["protocolVersion"] == 1


@pytest.mark.parametrize(("command", "script", "kind", "text"), BAD)
async def test_the_session_ends_with_the_same_words(
    tmp_path: Path, bin_: Path, command: tuple[str, ...], script: str, kind: type[SpawnError], text: str
) -> None:
    program = install(bin_, command[0], script=script) / command[0]
    toml = f"[agents.bad]\ncommand = {json.dumps([str(program), *command[1:]])}\n"
    seconds = str(_settings(kind).initialize_timeout)
    async with running_relay(
        tmp_path, toml=toml, PLUGINS__ACP__INITIALIZE_TIMEOUT=seconds, PLUGINS__ACP__EOF_GRACE="0.3"
    ) as relay:
        session = await relay.create("auth", agent="bad")
        async with following(relay, session.id) as client:
            last = await client.until_notice("ended")
            await client.until_the_end()
        assert (last["cause"], last["reason"]) == ("SPAWN_FAILED", text)
        await ended(relay, session.id)
        await nothing_is_left(relay, session)


async def test_one_that_dies_in_the_middle_of_a_turn(tmp_path: Path, bin_: Path) -> None:
    program = install(bin_, "mortal") / "mortal"
    text = "agent 'bad': it exited with 3; its last words were:\necho: told to crash"
    toml = f'[agents.bad]\ncommand = ["{program}"]\n'
    async with running_relay(tmp_path, toml=toml, RELAY__ON_CRASH="end") as relay:
        async with active_session(relay, agent="bad") as client:
            session = await relay.require(client.session_id)
            await client.say("/crash 3", "t1")
            end = (await client.until_turn_end("t1")).frame
            assert end.failed
            assert json.loads(end.body) == {"code": -32603, "message": f"interrupted: {text}"}
            last = await client.until_notice("ended")
            await client.until_the_end()
        assert (last["cause"], last["reason"]) == ("AGENT_EXITED", text)
        await ended(relay, session.id)
        await nothing_is_left(relay, session)


def _settings(kind: type[SpawnError]) -> AcpSettings:
    return IMPATIENT if kind is InitializeTimeout else QUICK
