"""A real Prometheus scrapes a relay through clean ends, crashes, a stall, sleep and restarts: every count is exact."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

import relaykit_acp.echo_agent
from relaykit_acp import marked
from relaykit_prometheus.assets import NAMES, assets
from support import remembering_agent
from support.acp_talk import AcpTalker
from support.prometheus import PROGRAM, Prometheus, Target, free_port, prometheus
from support.scraping import Series, all_series, in_short, series
from support.servers import Server, relay
from support.talk import Refusal, Talker

pytestmark = [
    pytest.mark.skipif(
        PROGRAM is None, reason="there is no `prometheus` on PATH: apt-get install prometheus brings it"
    ),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to see what is left"),
    pytest.mark.slow,
]

PATIENCE = 30.0
NODE = f"scraped-{os.getpid()}"
ECHO = [sys.executable, "-I", "-S", relaykit_acp.echo_agent.__file__]
JOBS = ("gateway", "own")
STREAMED, SIZE = 20_000, 1_000  # more than the buffers of a connection hold

STALLED = series("relaykit_clients_stalled_total", protocol="acp")

Counts = Mapping[str, float]
K = TypeVar("K")


class House:
    """Relays that follow each other at one address, over one SQLite, and the Prometheus that scrapes them."""

    def __init__(self, directory: Path) -> None:
        (directory / "memory").mkdir()
        remembering = [sys.executable, remembering_agent.__file__, str(directory / "memory")]
        gateway, own = free_port(), free_port()
        self._metrics = f"http://127.0.0.1:{own}/metrics"
        self.relay = partial(
            relay,
            agents={
                "remembering": remembering,
                "forgetful": [*remembering, "--forgetful"],
                "stubborn": [*ECHO, "--ignore-eof"],
                "missing": ["there-is-no-such-program"],
            },
            project=directory / "memory",
            state_dir=directory / "state",
            node=NODE,
            storage="sqlite",
            variables={
                "RELAYKIT_PLUGINS__GATEWAY__PORT": str(gateway),
                "RELAYKIT_PLUGINS__GATEWAY__STALL_TIMEOUT": "2",
                "RELAYKIT_PLUGINS__PROMETHEUS__PORT": str(own),
                "RELAYKIT_RELAY__IDLE_TIMEOUT": "0.5",
            },
        )
        token = directory / "state" / "gateway" / "token"
        self.prometheus = partial(
            prometheus,
            directory / "prometheus",
            [Target("gateway", f"127.0.0.1:{gateway}", token), Target("own", f"127.0.0.1:{own}")],
            rules={name: assets()[name] for name in NAMES if name.endswith(".yml")},
        )

    def scrape(self) -> dict[Series, float]:
        """Return what the relay says itself."""
        with urllib.request.urlopen(self._metrics, timeout=PATIENCE) as answer:
            scraped = all_series(answer.read().decode())
        return {key: value for key, value in scraped.items() if key[0].startswith("relaykit_")}

    def check(self, scraped: Prometheus, expected: Counts) -> None:
        """Check that the relay comes to these counts, and that Prometheus has all that it says, to the last digit."""
        until_equal(lambda: told(self.scrape()), lambda: expected)
        for job in JOBS:
            until_equal(partial(scraped.series, job), self.scrape)
        assert told(self.scrape()) == expected  # and so it was meanwhile


def until(is_so: Callable[[], bool], why_not: Callable[[], object]) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, why_not()
        time.sleep(0.1)


def until_equal(found: Callable[[], Mapping[K, float]], expected: Callable[[], Mapping[K, float]]) -> None:
    """Wait until two tables are the same, or tell in what they differ."""

    def differences() -> str:
        is_so, should_be = found(), expected()
        return "\n".join(
            f"{key}: {is_so.get(key)} instead of {should_be.get(key)}"
            for key in is_so.keys() | should_be.keys()
            if is_so.get(key) != should_be.get(key)
        )

    until(lambda: found() == expected(), differences)


def told(scraped: Mapping[Series, float]) -> dict[str, float]:
    """Return what the workload determines: not how often the storage is asked, nor how much is said of pids."""
    return in_short(scraped, without=("storage_", "hook_", "message_bytes"))


def agents_left() -> list[str]:
    """Return the command of every process that bears the mark of our relays."""
    mark = f"RELAYKIT_NODE={NODE}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it has ended meanwhile
    return found


def watcher_of(server: Server) -> int:
    """Return the process beside a relay that ends what it leaves when it is killed."""
    (found,) = [
        int(child)
        for children in Path(f"/proc/{server.pid}/task").glob("*/children")
        for child in children.read_text().split()
        if marked.__file__.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    ]
    return found


# ---------------------------------------------------------------- the workload


def a_life(**more: float) -> Counter[str]:
    """Return the counts of a session that was created, talked to, and stopped."""
    events = ("CREATE", "SPAWN", "ACTIVATE", "TERMINATE", "CLEAN")
    return Counter({f"session_transitions_total {event},done": 1 for event in events}) + Counter(
        {
            "session_terminations_total REQUESTED": 1,
            "session_duration_seconds_count": 1,
            "session_messages_count": 1,
            "cleanups_total acp,DONE": 1,
            "workspace_prepare_seconds_count": 1,
            "agent_shutdown_steps_total eof": 1,
            "client_attaches_total ws,controller": 1,
            **more,
        }
    )


def ask(talker: Talker, session_id: str) -> str:
    talker.say("agent:message", sessionId=session_id, content="/ask")
    request_id: str = talker.wait_for("permission:request")["requestId"]
    return request_id


def clean_ends(server: Server) -> Counter[str]:
    """Two sessions that are stopped, of which one agent needs SIGTERM."""
    with Talker(server) as talker:
        session = talker.create("clean", agent="remembering")
        for number in range(3):
            talker.prompt(session, f"fact {number}")
        talker.say("permission:response", sessionId=session, requestId=ask(talker, session), optionId="yes")
        talker.wait_for("agent:response")
        talker.stop(session)
        talker.stop(talker.create("stubborn-and-clean", agent="stubborn"))
    return (
        a_life(**spawned("remembering"), **stopped("remembering"))
        + a_life(**spawned("stubborn"), **stopped("stubborn"))
        + Counter(
            {
                "agent_shutdown_steps_total term": 1,
                "messages_total to_agent": 3 + 2,
                "messages_total from_agent": 3 * 2 + 3,  # (update, end), and (question, update, end)
                "turn_seconds_count done": 4,
                "turn_first_update_seconds_count": 4,
                "question_wait_seconds_count answered": 1,
            }
        )
    )


def crashes(server: Server) -> Counter[str]:
    """An agent that crashes in a turn, and one that cannot be started."""
    with Talker(server) as talker:
        session = talker.create("crashes", agent="forgetful")
        with pytest.raises(Refusal, match="told to crash"):
            talker.prompt(session, "/crash")
        talker.wait_for("session:terminated")
        with pytest.raises(Refusal, match="not found"):
            talker.create("missing", agent="missing")
        talker.wait_for("session:terminated")
    crashed = a_life(**spawned("forgetful"), **stopped("forgetful"))
    never_started = a_life()
    for life in (crashed, never_started):
        del life["session_terminations_total REQUESTED"]
    del never_started["session_transitions_total ACTIVATE,done"]
    del never_started["agent_shutdown_steps_total eof"]
    return (
        crashed
        + never_started
        + Counter(
            {
                "session_terminations_total AGENT_EXITED": 1,
                "agent_crashes_total": 1,
                "session_terminations_total SPAWN_FAILED": 1,
                "agent_spawn_failures_total missing,ProgramNotFound": 1,
                "messages_total to_agent": 1,
                "turn_seconds_count interrupted": 1,
            }
        )
    )


def stall(server: Server, house: House) -> Counter[str]:
    """A client that takes nothing of a stream, while another takes all."""
    with Talker(server) as talker:
        session = talker.create("streams", agent="forgetful")
        url = server.url.removesuffix("ws") + "acp?agent=forgetful"
        with AcpTalker(url, headers=server.headers) as deaf:
            deaf.ask("session/load", {"sessionId": session, "cwd": "/", "mcpServers": []})
            talker.prompt(session, f"/stream {STREAMED} {SIZE}")
            until(lambda: house.scrape()[STALLED] == 1, house.scrape)
        talker.stop(session)
    return a_life(**spawned("forgetful"), **stopped("forgetful")) + Counter(
        {
            "agent_shutdown_steps_total eof": 1,  # of one that was only asked what it can do
            "messages_total to_agent": 1,
            "messages_total from_agent": STREAMED + 1,
            "turn_seconds_count done": 1,
            "turn_first_update_seconds_count": 1,
            "client_attaches_total acp,controller": 1,
            "entries_replayed_total acp": 1,  # that the agent is there
            "clients_stalled_total acp": 1,
        }
    )


def spawned(agent: str) -> Counts:
    return {f"agent_spawn_seconds_count {agent}": 1}


def stopped(agent: str) -> Counts:
    return {f"agent_shutdown_seconds_count {agent}": 1}


BEGUN = Counter(
    {
        "session_transitions_total CREATE,done": 1,
        "session_transitions_total SPAWN,done": 1,
        "session_transitions_total ACTIVATE,done": 1,
        "workspace_prepare_seconds_count": 1,
    }
)


def fall_asleep(server: Server) -> Counter[str]:
    """A session that sleeps once its client has gone."""
    with Talker(server) as talker:
        talker.prompt(talker.create("sleeps", agent="remembering"), "a fact")
    return BEGUN + Counter(
        {
            **spawned("remembering"),
            **stopped("remembering"),
            "sessions ACTIVE": 1,
            "sessions_asleep": 1,
            "cleanups_total acp,DONE": 1,
            "agent_shutdown_steps_total eof": 1,
            "messages_total to_agent": 1,
            "messages_total from_agent": 2,
            "turn_seconds_count done": 1,
            "turn_first_update_seconds_count": 1,
            "client_attaches_total ws,controller": 1,
        }
    )


def stay(talker: Talker) -> Counter[str]:
    """One that waits for an answer, and one whose agent does not end with the relay."""
    ask(talker, talker.create("asks", agent="remembering"))
    talker.create("stays", agent="stubborn")
    return (
        BEGUN
        + BEGUN
        + Counter(
            {
                **spawned("remembering"),
                **spawned("stubborn"),
                "sessions ACTIVE": 2,
                "turns_running": 1,
                "questions_waiting": 1,
                "messages_total to_agent": 1,
                "messages_total from_agent": 1,
                "clients ws,controller": 1,
                "client_attaches_total ws,controller": 2,
            }
        )
    )


TAKEN_OVER: Counts = {
    "sessions ACTIVE": 3,
    "sessions_asleep": 3,
    "turn_seconds_count interrupted": 1,
    "question_wait_seconds_count cancelled": 1,
    "cleanups_total acp,DONE": 3,  # what is left of their agents is looked for
    "agent_leftovers_reaped_total": 1,
}


def wake_and_stop(server: Server) -> Counter[str]:
    """One of them is woken, and sleeps again; another is ended as it sleeps."""
    with Talker(server) as talker:
        talker.say("session:list")
        listed = {each["agentId"]: each["id"] for each in talker.wait_for("session:list")["sessions"]}
        talker.say("session:stop", sessionId=listed["asks"])  # that it has ended is told to who follows it
        talker.say("session:attach", sessionId=listed["sleeps"], after=0)
        head = talker.wait_for("session:attached")["head"]
        talker.wait_for("session:caught_up")
        assert talker.prompt(listed["sleeps"], "/recall")["content"] == "a fact"
    return Counter(
        {
            **spawned("remembering"),
            **stopped("remembering"),
            "session_transitions_total TERMINATE,done": 1,
            "session_transitions_total CLEAN,done": 1,
            "session_terminations_total REQUESTED": 1,
            "session_duration_seconds_count": 1,
            "session_messages_count": 1,
            "cleanups_total acp,DONE": 2,
            "agent_shutdown_steps_total eof": 1,
            "messages_total to_agent": 1,
            "messages_total from_agent": 2,
            "turn_seconds_count done": 1,
            "turn_first_update_seconds_count": 1,
            "client_attaches_total ws,controller": 1,
            "entries_replayed_total ws": head,
        }
    )


def test_all_that_a_real_prometheus_returns_is_exact(tmp_path: Path) -> None:
    house = House(tmp_path)
    with house.prometheus() as scraped, ThreadPoolExecutor(4) as pool:
        with house.relay() as server:
            steps = (clean_ends, crashes, partial(stall, house=house), fall_asleep)
            done = list(pool.map(lambda step: step(server), steps))
            with Talker(server) as talker:
                done.append(stay(talker))
                house.check(scraped, sum(done, Counter[str]()))
                watcher = watcher_of(server)
                os.kill(server.pid, signal.SIGKILL)
                os.kill(
                    watcher, signal.SIGKILL
                )  # it would end what the next relay is to find, or not: who is first
        until(lambda: all("--ignore-eof" in command for command in agents_left()), agents_left)

        with house.relay() as server:
            house.check(scraped, TAKEN_OVER)
            ended = Counter({"sessions ACTIVE": 1, "sessions_asleep": 1})
            house.check(scraped, Counter(TAKEN_OVER) + wake_and_stop(server) - ended)

        with house.relay():  # the last one was ended in order
            house.check(scraped, {"sessions ACTIVE": 2, "sessions_asleep": 2, "cleanups_total acp,DONE": 2})
            rules = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
            assert len(rules) > 20
            assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert agents_left() == []
