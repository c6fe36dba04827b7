"""Secrets that an agent was given, and says where people read it."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import MappingProxyType

import anyio
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import AgentExited, AgentProtocolError, LoginRequired
from relaykit_acp.mask import NO_SECRETS, Mask, mask_of
from support.acp_agents import Recorder, launcher, new_session

KEY, TOKEN, HEADER = "sk-of-the-agent-1", "token-of-a-server-2", "Bearer header-of-a-server-3"
SERVERS = (
    {"name": "files", "command": "/bin/files", "args": [], "env": [{"name": "T", "value": TOKEN}]},
    MappingProxyType(
        {"name": "web", "type": "http", "headers": ({"name": "Authorization", "value": HEADER},)}
    ),
    {"name": "odd", "env": "none", "headers": ["x", {"name": "y"}]},
)


def spec(command: tuple[str, ...] = ("x",), **env: str) -> AgentSpec:
    return AgentSpec(name="bad", command=command, env=env, mcp_servers=SERVERS)


def test_values_are_found_whole_in_their_words_and_as_json() -> None:
    mask = mask_of(spec(KEY=KEY, QUOTED='a "quoted" värde', PEM="-----BEGIN\nline-of-a-key\n-----END-----"))
    assert mask(f"{KEY} {TOKEN} {HEADER}") == "*** *** ***"
    assert mask(f"x{KEY}y header-of-a-server-3") == "x***y ***"
    assert mask(json.dumps({"value": 'a "quoted" värde'})) == '{"value": "***"}'
    assert mask("at line-of-a-key") == "at ***"
    assert mask("nothing of that, Bearer or BEGIN") == "nothing of that, Bearer or BEGIN"


def test_what_is_short_or_no_secret_is_left() -> None:
    mask = mask_of(spec(MODE="fast", HOME="/home/somebody", LC_MESSAGES="sv_SE.UTF-8"))
    assert mask("fast: /home/somebody sv_SE.UTF-8") == "fast: /home/somebody sv_SE.UTF-8"
    assert NO_SECRETS("anything at all") == "anything at all"
    assert Mask(["long-secret-and-more", "long-secret"])("long-secret-and-more") == "***"


SAYS = """
import json, os, sys
print("on stdout:", os.environ["KEY"])
print("x" * 495 + os.environ["KEY"], "on stderr", file=sys.stderr, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        answer = {"result": {"protocolVersion": 1}}
    elif sys.argv[1] == "exit":
        sys.exit(3)
    else:
        answer = {"error": {"code": int(sys.argv[1]), "message": "no: " + os.environ["KEY"]}}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
"""


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("exit", AgentExited, "x" * 495 + "*** o"),
        ("-32000", LoginRequired, "no: ***"),
        ("-1", AgentProtocolError, "no: ***"),
    ],
)
async def test_errors_and_logs_do_not_say_them(
    how: str, kind: type[Exception], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = spec((sys.executable, "-ISc", SAYS, how), KEY=KEY)
    async with launcher() as opened:
        with anyio.fail_after(20), pytest.raises(kind) as caught:
            await opened.launch(bad, new_session(), Path.cwd(), Recorder())
    assert says in str(caught.value)
    assert "on stdout: ***" in caplog.text
    assert "*** o" in caplog.text
    assert KEY[:6] not in caplog.text + str(caught.value)
