"""The fault matrix: agents with every fault, and every way in which a session or its relay ends.

All faults are sessions of one relay for each ending and loop. In every cell: no process is left, the session is
CLEANED or asleep, no zombie, no descriptor more than before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from relaykit.errors import SessionNotFound
from relaykit.relay import Relay
from relaykit.relay.rest import Presence
from relaykit.session import SessionFilter, SessionState
from relaykit_sqlite.storage import open_sqlite
from support import relay_program
from support.faults import FAULTS, Fault, agents_toml, descriptors, processes_left, zombies_of
from support.relay_program import misbehave_all
from support.relays import running_relay
from support.servers import relay as served
from support.talk import Refusal, Talker

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find processes"),
    pytest.mark.slow,
]

LOOPS = ("asyncio", "trio")

GRACE = "0.3"
# Both graces, what the watcher waits for besides, and time for a busy machine.
DEADLINE = 10.0
START = 30.0


class Cells:
    """One row of the matrix: what is wrong in any cell of it.

    :param ending: what ends the sessions.
    """

    def __init__(self, ending: str, loop: str) -> None:
        self.row = f"{ending}, {loop}"
        self.node = f"fault-{os.getpid()}-{ending}-{loop}".replace(" ", "-")
        self._wrong: list[str] = []

    def check(self, right: bool, fault: str, what: str) -> None:  # noqa: FBT001 -- as an assertion
        """Note what is wrong in a cell."""
        if not right:
            self._wrong.append(f"{self.row} x {fault}: {what}")

    def check_processes(self, but: str = "") -> None:
        """Check that no agent's process is left, but for one fault's."""
        for fault, pids in processes_left(self.node).items():
            self.check(fault == but, fault, f"{len(pids)} processes are left: {pids}")

    def end(self) -> None:
        """Fail with all that was wrong, and end what was left."""
        for pids in processes_left(self.node).values():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert not self._wrong, "\n".join(self._wrong)


@contextmanager
def cells(ending: str, loop: str) -> Iterator[Cells]:
    """Check a row of the matrix; what it needs of this process is given back at the end."""
    files, zombies = descriptors(), set(zombies_of(os.getpid()))
    row = Cells(ending, loop)
    try:
        yield row
        row.check(descriptors() <= files, "all", f"{descriptors() - files} descriptors more than before")
        left = set(zombies_of(os.getpid())) - zombies
        row.check(not left, "all", f"zombies: {left}")
    finally:
        row.end()


def wait_for(is_so: Callable[[], bool], *, seconds: float = DEADLINE) -> None:
    """Wait for what nobody tells of; return when it is so, or the time is up."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)


# ---------------------------------------------------------------- the relay lives on


@asynccontextmanager
async def relay_here(
    directory: Path, row: Cells, *, spawning: bool = False, limits: str = "0", initialize_timeout: str = "30"
) -> AsyncIterator[Relay]:
    async with running_relay(
        directory,
        toml=agents_toml(spawning=spawning),
        RELAY__NODE=row.node,
        RELAY__STORAGE="sqlite",
        RELAY__IDLE_TIMEOUT=limits,
        RELAY__GRACE_PERIOD=limits,
        RELAY__ON_CRASH="end",  # one that comes back is no end
        PLUGINS__ACP__MAX_SPAWNING=str(len(FAULTS)),
        PLUGINS__ACP__INITIALIZE_TIMEOUT=initialize_timeout,
        PLUGINS__ACP__EOF_GRACE=GRACE,
        PLUGINS__ACP__TERM_GRACE=GRACE,
    ) as relay:
        yield relay


async def check_ended(
    relay: Relay, row: Cells, sessions: Mapping[str, str], *, sleep: bool = False, but: str = ""
) -> None:
    """Check that sessions end in time, and that then nothing of any agent is left.

    :param sleep: or sleep.
    :param but: whose agent is to live on.
    """

    async def one(fault: str, session_id: str) -> None:
        with anyio.move_on_after(DEADLINE) as scope:
            if sleep and await sleeps(relay, session_id):
                return
            await relay.wait_ended(session_id)
        session = await relay.get(session_id)
        state = "gone" if session is None else session.state
        row.check(not scope.cancelled_caught and session is None, fault, f"it is {state}")

    async with anyio.create_task_group() as tasks:
        for fault, session_id in sessions.items():
            tasks.start_soon(one, fault, session_id)
    await to_thread.run_sync(row.check_processes, but)


async def stop(relay: Relay, *sessions: str) -> None:
    for session_id in sessions:
        with suppress(SessionNotFound):  # its agent has crashed, and all is over already
            await relay.stop(session_id, "the test is over")


async def sleeps(relay: Relay, session_id: str) -> bool:
    """Wait until a session sleeps; tell that it does, or that it has ended."""
    while await relay.get(session_id) is not None:
        with suppress(LookupError):
            if relay.presence(session_id) is Presence.ASLEEP:
                return True
        await anyio.sleep(0.05)
    return False


@pytest.mark.anyio
async def test_a_client_stops_the_session(tmp_path: Path, anyio_backend_name: str) -> None:
    with cells("client stop", anyio_backend_name) as row:
        async with relay_here(tmp_path, row) as relay:
            sessions = await misbehave_all(relay)
            await stop(relay, *sessions.values())
            await check_ended(relay, row, sessions)


@pytest.mark.anyio
async def test_a_client_stops_the_session_while_it_is_spawning(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    with cells("stop during SPAWNING", anyio_backend_name) as row:
        async with relay_here(tmp_path, row, spawning=True) as relay:
            sessions = {fault.name: (await relay.create(fault.name, agent=fault.name)).id for fault in FAULTS}
            with anyio.fail_after(START):
                while len(await to_thread.run_sync(processes_left, row.node)) < len(FAULTS) - 1:  # noqa: ASYNC110
                    await anyio.sleep(0.05)  # nobody tells of it; the one that crashes may be gone already
            await stop(relay, *sessions.values())
            await check_ended(relay, row, sessions)


@pytest.mark.anyio
async def test_the_client_vanishes_and_the_time_is_up(tmp_path: Path, anyio_backend_name: str) -> None:
    with cells("client vanishes", anyio_backend_name) as row:
        async with relay_here(tmp_path, row, limits="0.3", initialize_timeout="2") as relay:
            sessions = await misbehave_all(relay, shortly=True)
            # A turn that has no end keeps its session, whoever looks on: that is what long turns are for.
            busy = sessions.pop("never-answers")
            await check_ended(relay, row, sessions, sleep=True, but="never-answers")
            row.check(relay.presence(busy) is Presence.AWAKE, "never-answers", "it was ended within its turn")
            await stop(relay, busy)
            await check_ended(relay, row, {"never-answers": busy})


@pytest.mark.anyio
async def test_the_agent_is_killed(tmp_path: Path, anyio_backend_name: str) -> None:
    with cells("agent crash", anyio_backend_name) as row:
        async with relay_here(tmp_path, row) as relay:
            sessions = await misbehave_all(relay)
            for session_id in sessions.values():
                session = await relay.get(session_id)
                pid = None if session is None else session.resources.get("acp", {}).get("pid")
                if pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            await check_ended(relay, row, sessions)


# ---------------------------------------------------------------- the relay ends


@contextmanager
def relay_there(loop: str, directory: Path, row: Cells, *, empty: bool = False) -> Iterator[int]:
    """Run a relay in a process of its own, on asyncio `relaykit serve`, and yield its pid when all misbehave.

    SIGTERM ends it at the end of the block.
    """
    project = directory / "project"
    project.mkdir(exist_ok=True)
    (project / "relaykit.toml").write_text(agents_toml())
    if loop == "asyncio":
        with (
            ExitStack() as clients,
            served(
                project=project,
                state_dir=directory / "state",
                node=row.node,
                storage="sqlite",
                variables={
                    "RELAYKIT_PLUGINS__ACP__EOF_GRACE": GRACE,
                    "RELAYKIT_PLUGINS__ACP__TERM_GRACE": GRACE,
                },
            ) as server,
        ):
            if not empty:
                talkers = [clients.enter_context(Talker(server)) for _ in FAULTS]
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(misbehave_there, talkers, FAULTS))
            yield server.pid
        return
    settings = {
        "RELAY__NODE": row.node,
        "RELAY__STORAGE": "sqlite",
        "RELAY__WORKSPACE": "in_place",
        "RELAY__STATE_DIR": str(directory / "state"),
        "RELAY__DISABLED": '["gateway", "prometheus"]',
        "PLUGINS__ACP__KNOWN_AGENTS": "false",
        "PLUGINS__ACP__EOF_GRACE": GRACE,
        "PLUGINS__ACP__TERM_GRACE": GRACE,
    }
    environ = {**os.environ, **{f"RELAYKIT_{name}": value for name, value in settings.items()}}
    environ["PYTHONPATH"] = str(Path(relay_program.__file__).parents[1])
    command = [sys.executable, relay_program.__file__, loop, str(project), *(["empty"] if empty else [])]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def misbehave_there(talker: Talker, fault: Fault) -> None:
    """Create a session of this fault, and have it misbehave if it gets so far."""
    with suppress(Refusal):  # it has crashed already
        talker.say("session:create", agentId=fault.name, agent=fault.name)
        if "--no-initialize" not in fault.flags:
            session_id = talker.wait_for("session:ready")["sessionId"]
            if fault.prompt:
                talker.say("agent:message", sessionId=session_id, content=fault.prompt)


async def check_states(row: Cells, directory: Path) -> None:
    """Check, when no relay runs, that every session is asleep or has ended."""
    async with open_sqlite(directory / "state" / "sqlite" / "relay.db") as (store, _):
        for session in await store.list(SessionFilter()):
            row.check(
                session.state in {SessionState.ACTIVE, SessionState.CLEANED},
                session.agent_id,
                f"it is {session.state}",
            )


@pytest.mark.parametrize("loop", LOOPS)
def test_the_relay_is_told_to_stop(tmp_path: Path, loop: str) -> None:
    with cells("relay SIGTERM", loop) as row:
        with relay_there(loop, tmp_path, row):
            pass
        row.check_processes()
        anyio.run(check_states, row, tmp_path)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_relay_is_killed_and_not_started_again(tmp_path: Path, loop: str) -> None:
    with cells("relay SIGKILL", loop) as row, relay_there(loop, tmp_path, row) as pid:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not processes_left(row.node))
        row.check_processes()


@pytest.mark.parametrize("loop", LOOPS)
def test_the_relay_is_killed_and_started_again(tmp_path: Path, loop: str) -> None:
    with cells("relay SIGKILL and restart", loop) as row:
        with relay_there(loop, tmp_path, row) as pid:
            os.kill(pid, signal.SIGKILL)
        with relay_there(loop, tmp_path, row, empty=True):
            wait_for(lambda: not processes_left(row.node))
            row.check_processes()
        anyio.run(check_states, row, tmp_path)
