"""`relaykit serve` is the parent of every process that its agents leave without one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import faulty_agent
from support.faults import zombies_of
from support.servers import relay
from support.talk import Talker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt")

PATIENCE = 20.0


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_orphans_of_agents_are_reaped_and_end_with_the_relay() -> None:
    variables = {"RELAYKIT_PLUGINS__ACP__EOF_GRACE": "0.3", "RELAYKIT_PLUGINS__ACP__TERM_GRACE": "0.3"}
    with relay(agents={"faulty": faulty_agent.COMMAND}, variables=variables) as server:
        with Talker(server) as talker:
            session = talker.create("tests", agent="faulty")
            talker.prompt(session, "/children 5 orphan")
            talker.prompt(session, "/children 5 orphan setsid")
            said = talker.prompt(session, "/children 1 setsid bare")["content"]
            [unknown] = map(int, said.removeprefix("children: ").split())
            talker.stop(session)
        until(lambda: parent(unknown) == server.pid)
        until(lambda: zombies_of(server.pid) == [])
        os.kill(
            unknown, 0
        )  # it bears nothing that would tell whose it is: another session's, for all we know
    with pytest.raises(ProcessLookupError):
        os.kill(unknown, 0)
