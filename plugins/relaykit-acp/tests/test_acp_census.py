from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio
import anyio.from_thread
import pytest

from relaykit_acp import marked
from relaykit_acp.environment import marker
from relaykit_acp.household import NOBODY, Census
from support.acp_agents import new_session

pytestmark = pytest.mark.anyio


@contextmanager
def _marked_process(entry: str) -> Iterator[int]:
    name, _, value = entry.partition("=")
    command = [sys.executable, "-ISc", "import time; time.sleep(600)"]
    with subprocess.Popen(command, env={**os.environ, name: value}) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def _marked(census: Census, entry: str) -> Sequence[int]:
    return (await census.left(entry, NOBODY)).strays


def _bears(entry: str, pid: int) -> bool:
    return marked.is_marked(pid, entry)


async def test_it_finds_the_processes_of_each_session() -> None:
    one, other = marker(new_session().id), marker(new_session().id)
    with _marked_process(one) as first, _marked_process(one) as second, _marked_process(other) as third:
        async with anyio.create_task_group() as tasks:
            census = Census(tasks)
            with anyio.fail_after(20):
                assert sorted(await _marked(census, one)) == sorted([first, second])
                assert list(await _marked(census, other)) == [third]
                assert list(await _marked(census, marker("nobody"))) == []


async def test_many_who_ask_at_once_share_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = marked.marked_by

    def counted(variable: str) -> dict[str, list[int]]:
        nonlocal looks
        looks += 1
        return look(variable)

    monkeypatch.setattr(marked, "marked_by", counted)
    wanted = marker(new_session().id)
    answers: list[Sequence[int]] = []
    with _marked_process(wanted) as pid:
        async with anyio.create_task_group() as tasks:
            census = Census(tasks)

            async def ask() -> None:
                answers.append(await _marked(census, wanted))

            with anyio.fail_after(20):
                async with anyio.create_task_group() as asking:
                    for _ in range(100):
                        asking.start_soon(ask)
    assert answers == [[pid]] * 100
    assert looks <= 3


async def test_who_asks_during_a_look_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    # The look that is under way may have passed the process already.
    looks: list[dict[str, list[int]]] = [{"RELAYKIT_SESSION=x": [2]}, {"RELAYKIT_SESSION=x": [1]}]
    asked = anyio.Event()
    second: list[Sequence[int]] = []
    async with anyio.create_task_group() as tasks:
        census = Census(tasks)

        async def ask() -> None:
            asked.set()
            second.append(await _marked(census, "RELAYKIT_SESSION=x"))

        def slow(_variable: str) -> dict[str, list[int]]:
            if not asked.is_set():
                anyio.from_thread.run_sync(tasks.start_soon, ask)
                anyio.from_thread.run(asked.wait)
            return looks.pop()

        monkeypatch.setattr(marked, "marked_by", slow)
        with anyio.fail_after(20):
            assert await _marked(census, "RELAYKIT_SESSION=x") == [1]
    assert second == [[2]]


def test_a_process_is_known_from_its_very_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # For a moment within exec it has no environment: a look at that moment must not miss it.
    for _ in range(40):
        wanted = marker(new_session().id)
        with _marked_process(wanted) as pid, monkeypatch.context() as patch:
            patch.setattr(marked, "pids", partial(iter, [pid]))  # at once, not after all others
            assert marked.marked(wanted) == [pid]


def test_a_signal_needs_the_marker() -> None:
    wanted = marker(new_session().id)
    with _marked_process(wanted) as pid:
        assert marked.signal_if(pid, partial(_bears, marker("another")), signal.SIGKILL) is False
        assert marked.marked(wanted) == [pid]
        assert marked.signal_if(pid, partial(_bears, wanted), signal.SIGKILL) is True
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is not None
        assert marked.marked(wanted) == []
        assert marked.signal_if(pid, partial(_bears, wanted), signal.SIGKILL) is False
