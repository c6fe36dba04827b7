"""(c) Sessions that are created, prompted once and closed, a second; beside the same agent run by hand."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import relaykit_acp.echo_agent
from figures import Figure
from support.servers import Server, relay
from support.talk import Talker

ROUNDS = 3
SESSIONS = 120
WORKTREE_SESSIONS = 40
AT_ONCE = 4
AIM = 150

ECHO_AGENT = [sys.executable, "-I", "-S", relaykit_acp.echo_agent.__file__]

# An agent that costs next to nothing to start, as a compiled one would: what is left is the relay's own part.
SHELL_AGENT = [
    "sh",
    "-c",
    r"""
while read -r line; do
  id=${line#*'"id":'}; id=${id%%[,\}]*}
  case $line in
    *'"initialize"'*) result='{"protocolVersion":1,"agentCapabilities":{}}' ;;
    *'"session/new"'*) result='{"sessionId":"s"}' ;;
    *) printf '%s' '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s","update":'
       echo '{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"hello"}}}}'
       result='{"stopReason":"end_turn"}' ;;
  esac
  echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$result}"
done
""",
]


def measure_sessions(*, scale: float) -> Sequence[Figure]:
    figures = []
    for name, agent, workspace, sessions, aim in (
        ("echo agent, no worktree", ECHO_AGENT, "in_place", SESSIONS, True),
        ("shell agent, no worktree", SHELL_AGENT, "in_place", SESSIONS, False),
        ("echo agent, worktree", ECHO_AGENT, "worktree", WORKTREE_SESSIONS, False),
    ):
        count = max(AT_ONCE, int(sessions * scale))
        rates: tuple[list[float], list[float]] = ([], [])
        with TemporaryDirectory(prefix="relaykit-benchmark-") as scratch:
            project = Path(scratch)
            git = ["git", "-C", scratch, "-c", "user.name=bench", "-c", "user.email=bench@example.org"]
            subprocess.run([*git, "init", "-q"], check=True)
            subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "begin"], check=True)
            with relay(workspace=workspace, project=project, agents={"bench": agent}) as server:
                for round_number in range(ROUNDS):
                    roles = [f"r{round_number}-{at}" for at in range(AT_ONCE)]
                    rates[0].append(_rate(count, partial(_live, server), roles))
                    rates[1].append(_rate(count, partial(_by_hand, agent), roles))
        rate, by_hand = (statistics.median(each) for each in rates)
        figures.append(
            Figure(
                name=f"sessions created, prompted, closed ({name})",
                value=rate,
                unit="/s",
                reference=by_hand,
                reference_name="the agent by hand",
                target=f"≥ {AIM} /s" if aim else "",
                met=rate >= AIM if aim else None,
            )
        )
    return figures


def _rate(count: int, live: Callable[[str, int], None], roles: Sequence[str]) -> float:
    each = count // len(roles)
    started = time.perf_counter()
    with ThreadPoolExecutor(len(roles)) as pool:
        for done in [pool.submit(live, role, each) for role in roles]:
            done.result()
    return each * len(roles) / (time.perf_counter() - started)


def _live(server: Server, role: str, count: int) -> None:
    with Talker(server) as talker:
        for _ in range(count):
            session = talker.create(role, agent="bench")
            talker.prompt(session, "hello")
            talker.stop(session)


def _by_hand(agent: Sequence[str], _role: str, count: int) -> None:
    for _ in range(count):
        with subprocess.Popen(agent, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            ask(process, "initialize", {"protocolVersion": 1})
            session = ask(process, "session/new", {"cwd": "/", "mcpServers": []})["sessionId"]
            prompt = [{"type": "text", "text": "hello"}]
            ask(process, "session/prompt", {"sessionId": session, "prompt": prompt})


def ask(process: subprocess.Popen[bytes], method: str, params: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    while "id" not in (answer := json.loads(process.stdout.readline())):
        pass
    result: dict[str, Any] = answer["result"]
    return result
