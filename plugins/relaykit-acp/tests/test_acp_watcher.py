from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from relaykit_acp import marked
from relaykit_acp.agent import AcpAgent
from relaykit_acp.environment import RUN_VARIABLE
from relaykit_acp.finding import ECHO
from relaykit_acp.launcher import AcpLauncher
from relaykit_acp.watcher import Watcher
from support import host_that_forks
from support.acp_agents import Recorder, launcher, new_session

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not marked.HAS_PROC, reason="nothing is found without /proc, and nobody watches"),
]

PATIENCE = 20.0


@asynccontextmanager
async def watched(agents: int = 1) -> AsyncIterator[tuple[AcpLauncher, Watcher, list[int]]]:
    """Open a launcher with some agents, and yield their pids too."""
    async with launcher() as opened:
        pids: list[int] = []

        async def launch() -> None:
            agent = await opened.launch(ECHO, new_session(), Path.cwd(), Recorder())
            assert isinstance(agent, AcpAgent)
            pids.append(agent._process.pid)

        async with anyio.create_task_group() as tasks:
            for _ in range(agents):
                tasks.start_soon(launch)
        yield opened, opened._household.watcher, pids


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not is_so():  # noqa: ASYNC110 -- nobody tells of it
            await anyio.sleep(0.01)


def status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def open_files(pid: int) -> dict[int, str]:
    files = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # what we look with
            files[int(path.name)] = str(path.readlink())
    return files


def ignores(pid: int, number: signal.Signals) -> bool:
    return bool(int(status(pid, "SigIgn"), 16) >> (number - 1) & 1)


async def until_it_watches(watcher: Watcher) -> int:
    """Wait until it has come so far as to ignore signals, and has opened what it waits for; return its pid."""
    await until(lambda: watcher.pid is not None)
    pid = watcher.pid
    assert pid is not None
    await until(lambda: ignores(pid, signal.SIGHUP) and len(open_files(pid)) == 4)
    return pid


async def test_who_starts_no_agent_has_no_watcher() -> None:
    async with launcher() as opened:
        assert opened._household.watcher.pid is None


async def test_there_is_one_for_all_agents_and_none_when_they_have_ended() -> None:
    async with watched(agents=5) as (_, watcher, pids):
        assert watcher.pid is not None
        pid = watcher.pid
        found = await to_thread.run_sync(marked.marked, f"{RUN_VARIABLE}={watcher.run}")
        assert sorted(found) == sorted(pids)  # and not the watcher
    with pytest.raises(ProcessLookupError):  # not even a zombie
        os.kill(pid, 0)


async def test_it_holds_nothing_but_its_pipe_and_is_led_by_nobody() -> None:
    async with watched() as (_, watcher, _pids):
        pid = await until_it_watches(watcher)
        files = open_files(pid)
        assert files.pop(0).startswith("pipe:")
        assert sorted(files.values()) == ["/dev/null", "/dev/null", "anon_inode:[pidfd]"]
        proc = anyio.Path(f"/proc/{pid}")
        assert await (proc / "cwd").readlink() == anyio.Path("/")
        assert b"RELAYKIT" not in await (proc / "environ").read_bytes()
        assert os.getsid(pid) == os.getpgid(pid) == pid


async def test_no_agent_holds_the_pipe_however_many_start_at_once() -> None:
    async with watched(agents=8) as (_, watcher, pids):
        pipe = open_files(await until_it_watches(watcher))[0]
        holders = [pid for pid in pids if pipe in open_files(pid).values()]
        assert holders == []
        assert list(open_files(os.getpid()).values()).count(pipe) == 1


async def test_what_is_typed_or_sent_to_end_it_does_not() -> None:
    async with watched() as (_, watcher, _pids):
        pid = await until_it_watches(watcher)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        await anyio.sleep(0.1)
        assert watcher.pid == pid
        assert status(pid, "State").startswith("S")


async def test_it_is_started_again() -> None:
    async with watched() as (_, watcher, _pids):
        first = await until_it_watches(watcher)
        os.kill(first, signal.SIGKILL)
        await until(lambda: watcher.pid not in {None, first})
        await until_it_watches(watcher)
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


async def test_one_that_cannot_be_started_keeps_no_agent_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    async with watched() as (_, watcher, pids):
        assert watcher.pid is None
        os.kill(pids[0], 0)


@pytest.mark.parametrize("fork", ["", "fork"])
def test_the_agents_of_a_host_that_is_killed_are_ended(fork: str, anyio_backend_name: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(host_that_forks.__file__).parents[1])}
    command = [sys.executable, host_that_forks.__file__, anyio_backend_name, fork]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        run, *pids = host.stdout.readline().decode().split()
        host.kill()
        host.wait(PATIENCE)
        try:
            anyio.run(until, lambda: not marked.marked(f"{RUN_VARIABLE}={run}"))
        finally:
            for pid in pids:  # what the host has forked, which is no agent
                os.kill(int(pid), signal.SIGKILL)


@contextmanager
def _process(**environ: str) -> Iterator[subprocess.Popen[bytes]]:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    command = [sys.executable, "-ISc", code]
    with subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_another_relay_of_the_same_name_is_left_alone() -> None:
    run, other = (new_session().id for _ in range(2))
    with (
        _process(RELAYKIT_NODE="local", RELAYKIT_RUN=run) as ours,
        _process(RELAYKIT_NODE="local", RELAYKIT_RUN=other) as theirs,
        _process(RELAYKIT_NODE="local", RELAYKIT_RUN=f"{run}0") as similar,
    ):
        assert marked.end_marked(f"{RUN_VARIABLE}={run}", eof_grace=0.0, term_grace=0.0)
        assert ours.wait(PATIENCE) == -signal.SIGKILL
        assert theirs.poll() is similar.poll() is None
