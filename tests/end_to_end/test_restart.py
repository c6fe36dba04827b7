"""A relay is told to stop, and started again: a restart is never worse for anybody than a crash."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import remembering_agent
from support.servers import Server, relay
from support.talk import Talker

SESSIONS = 30

pytestmark = pytest.mark.slow


def begin(server: Server, number: int) -> str:
    """Tell a session something, and leave it in the midst of a turn."""
    with Talker(server) as talker:
        session = talker.create(f"role-{number}", agent="remembering")
        assert talker.prompt(session, f"fact {number}")["content"] == f"fact {number}"
        talker.say("agent:message", sessionId=session, content="/ask")
        talker.wait_for("permission:request")
        return session


def come_back(server: Server, session: str) -> tuple[list[dict[str, Any]], str]:
    """Return what a session tells of its past, and what its agent knows of it."""
    with Talker(server) as talker:
        talker.say("session:attach", sessionId=session, after=0)
        past: list[dict[str, Any]] = []
        while not past or past[-1]["type"] != "session:caught_up":
            past.append(json.loads(talker.socket.receive()))
        return past, str(talker.prompt(session, "/recall")["content"])


def test_every_session_is_there_again_with_its_context_and_its_turn_marked(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    known = {"remembering": [sys.executable, remembering_agent.__file__, str(memory), "--only-load"]}
    serve = partial(relay, project=memory, agents=known, state_dir=tmp_path / "state", storage="sqlite")
    with ThreadPoolExecutor(8) as pool:
        with serve() as server:
            sessions = list(pool.map(partial(begin, server), range(SESSIONS)))
        # Leaving the block is a SIGTERM, and waits for the end.
        with serve() as server:
            found = list(pool.map(partial(come_back, server), sessions))
    for number, (past, recalled) in enumerate(found):
        assert recalled == f"fact {number} | /ask"
        errors = [message for message in past if message["type"] == "error"]
        assert [error["error"]["message"] for error in errors] == ["interrupted: the relay is shutting down"]
        assert [message["outcome"] for message in past if message["type"] == "permission:resolved"] == [
            "cancelled"
        ]
        assert not any("replayed" in json.dumps(message) for message in past)
        seqs = [message["seq"] for message in past if "seq" in message]
        assert seqs == sorted(seqs)
