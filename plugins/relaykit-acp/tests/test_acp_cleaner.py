from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.meter import NO_METER, Meter
from relaykit.session.cleaner import CleanerResult, Outcome, Phase
from relaykit.session.model import Handle, Session
from relaykit.testing import FakeConnection
from relaykit_acp import processes
from relaykit_acp.cleaner import AcpCleaner
from relaykit_acp.environment import marker
from relaykit_acp.finding import ECHO
from relaykit_acp.settings import AcpSettings
from support.acp_agents import Recorder, echo, launcher, new_session, say, survivors, texts
from support.plugin_sites import RecordingMeter

pytestmark = pytest.mark.anyio

_STUBBORN = (
    "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
_WILLING = "import time; print('ready', flush=True); time.sleep(600)"
_PARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-ISc", {_WILLING!r}])
import time; time.sleep(600)
"""

_PARENT_THAT_ENDS = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-ISc", {_WILLING!r}])
"""


@contextmanager
def _process(code: str = _WILLING, *, environment: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a group of its own, as some relay before us would have."""
    name, _, value = environment.partition("=")
    env = {**os.environ, **({name: value} if name else {})}
    process = subprocess.Popen(
        [sys.executable, "-ISc", code], stdout=subprocess.PIPE, env=env, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.stdout.close()
        processes.signal_group(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def _recorded(session: Session, pid: int, **changes: Any) -> Session:
    """Return the session with its process recorded as the launcher does it."""
    stat = processes.stat(pid)
    assert stat is not None
    facts: dict[str, Any] = {
        "marker": marker(session.id),
        "command": ["x"],
        "pid": pid,
        "pgid": pid,
        "start_time": stat.start_time,
        "boot": processes.boot_id(),
    }
    return replace(session, resources={"acp": {**facts, **changes}})


async def _clean(
    session: Session, handle: Handle | None = None, *, term_grace: float = 0.3, meter: Meter = NO_METER
) -> CleanerResult:
    with anyio.fail_after(15):
        return await AcpCleaner(AcpSettings(term_grace=term_grace), meter=meter).clean(session, handle)


def test_its_name_and_phase() -> None:
    cleaner = AcpCleaner(AcpSettings())
    assert (cleaner.name, cleaner.phase) == ("acp", Phase.AGENT)


async def test_an_attached_agent_is_closed() -> None:
    agent = FakeConnection()
    handle = Handle(connection=FakeConnection(), scope=anyio.CancelScope(), agent=agent)
    assert await _clean(new_session(), handle) == CleanerResult("acp", Outcome.DONE)
    assert agent.closed


async def test_nothing_recorded() -> None:
    assert (await _clean(new_session())).outcome is Outcome.SKIPPED


async def test_what_has_ended_already() -> None:
    session = new_session()
    with _process() as process:
        recorded = _recorded(session, process.pid)
    for facts in (recorded.resources["acp"], {"marker": marker(session.id), "command": ["x"]}):
        result = await _clean(replace(session, resources={"acp": facts}))
        assert result == CleanerResult("acp", Outcome.DONE, "it had ended already")


@pytest.mark.parametrize(("code", "number"), [(_WILLING, signal.SIGTERM), (_STUBBORN, signal.SIGKILL)])
async def test_a_leftover_is_known_by_pid_and_start_time(code: str, number: signal.Signals) -> None:
    meter = RecordingMeter()
    with _process(code) as process:
        result = await _clean(_recorded(new_session(), process.pid), meter=meter)
        assert result.outcome is Outcome.DONE
        assert number.name in result.detail
        assert meter.counted == [("agent_leftovers_reaped", 1, {})]
        assert process.wait(timeout=5) == -number


async def test_its_children_end_with_it() -> None:
    with _process(_PARENT) as process:
        assert len(processes.led_by({process.pid})[process.pid]) == 2
        assert (await _clean(_recorded(new_session(), process.pid))).outcome is Outcome.DONE
        assert processes.led_by({process.pid}) == {}


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot": "another"}, {"start_time": None}])
async def test_another_process_with_that_pid_is_left_alone(change: dict[str, Any]) -> None:
    with _process() as process:
        result = await _clean(_recorded(new_session(), process.pid, **change))
        assert result == CleanerResult("acp", Outcome.DONE, "it had ended already")
        assert process.poll() is None


@pytest.mark.parametrize("code", [_WILLING, _STUBBORN])
async def test_a_leftover_is_known_by_its_marker(code: str) -> None:
    session = new_session()
    with _process(code, environment=marker(session.id)) as process:
        facts = {"marker": marker(session.id), "command": ["x"]}
        result = await _clean(replace(session, resources={"acp": facts}))
        assert result.outcome is Outcome.DONE
        assert str(process.pid) in result.detail
        process.wait(timeout=5)


async def test_a_marker_is_compared_whole() -> None:
    session = new_session()
    with _process(environment=marker(f"{session.id}0")) as process:
        facts = {"marker": marker(session.id), "command": ["x"]}
        await _clean(replace(session, resources={"acp": facts}))
        assert process.poll() is None


async def test_a_marked_member_makes_a_dead_leaders_group_ours() -> None:
    session = new_session()
    unmarked = f"""
import os, subprocess, sys
clean = {{name: value for name, value in os.environ.items() if name != "RELAYKIT_SESSION"}}
subprocess.Popen([sys.executable, "-ISc", {_WILLING!r}], env=clean)
subprocess.Popen([sys.executable, "-ISc", {_WILLING!r}], stdout=subprocess.DEVNULL)
"""
    with _process(unmarked, environment=marker(session.id)) as process:
        recorded = _recorded(session, process.pid)
        process.wait(timeout=5)  # the leader
        assert len(processes.led_by({process.pid})[process.pid]) == 2
        assert (await _clean(recorded)).outcome is Outcome.DONE
        assert processes.led_by({process.pid}) == {}


async def test_a_group_that_has_the_number_of_ours_by_now_is_left_alone() -> None:
    # Its leader is gone, as ours is, and a member lives: nothing of it says that it is the session's.
    with _process(_PARENT_THAT_ENDS) as process:
        recorded = _recorded(new_session(), process.pid, start_time=1)
        process.wait(timeout=5)
        result = await _clean(recorded)
        assert result == CleanerResult("acp", Outcome.DONE, "it had ended already")
        assert len(processes.led_by({process.pid})[process.pid]) == 1


async def test_an_agent_of_another_relay_with_our_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYKIT_NODE", "local")
    session = new_session()
    with (
        _process(environment=marker(new_session().id)) as theirs,
        _process(environment=marker(session.id)) as ours,
    ):
        assert (await _clean(_recorded(session, ours.pid))).outcome is Outcome.DONE
        assert ours.wait(timeout=5) == -signal.SIGTERM
        assert theirs.poll() is None


async def test_members_are_ended_after_all_that_told_whose_they_are() -> None:
    # The marked one ends at SIGTERM, and leaves two that bear no marker and ignore it.
    session = new_session()
    code = f"""
import os, subprocess, sys
for _ in range(2):
    subprocess.Popen([sys.executable, "-ISc", {_STUBBORN!r}], env={{}}, stdout=subprocess.DEVNULL)
{_WILLING}
"""
    with _process(code, environment=marker(session.id)) as process:
        assert len(processes.led_by({process.pid})[process.pid]) == 3
        result = await _clean(_recorded(session, process.pid))
        assert result.outcome is Outcome.DONE
        assert processes.led_by({process.pid}) == {}


@pytest.mark.parametrize("flags", [(), ("--ignore-signals",)])
async def test_an_agent_whose_handle_was_lost(flags: tuple[str, ...]) -> None:
    session, recorder = new_session(), Recorder()
    async with launcher() as opened:
        agent = await opened.launch(echo(*flags), session, Path.cwd(), recorder)
        result = await _clean(replace(session, resources={"acp": recorder.facts[-1]}))
        assert result.outcome is Outcome.DONE
        assert await survivors(session) == []
        with pytest.raises(anyio.EndOfStream), anyio.fail_after(5):
            await agent.receive()


async def test_what_left_the_group_of_an_agent_whose_handle_was_lost() -> None:
    session, recorder = new_session(), Recorder()
    async with launcher() as opened:
        agent = await opened.launch(ECHO, session, Path.cwd(), recorder)
        assert texts(await say(agent, "/children 2 setsid"))  # type: ignore[arg-type]
        assert len(await survivors(session)) == 3
        assert (await _clean(replace(session, resources={"acp": recorder.facts[-1]}))).outcome is Outcome.DONE
        assert await survivors(session) == []


async def test_it_runs_again_without_harm() -> None:
    with _process() as process:
        session = _recorded(new_session(), process.pid)
        assert (await _clean(session)).outcome is Outcome.DONE
        assert (await _clean(session)).detail == "it had ended already"


async def test_without_proc_nothing_is_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    with _process() as process:
        session = _recorded(new_session(), process.pid)
        monkeypatch.setattr(processes, "HAS_PROC", False)
        result = await _clean(session)
        assert result.outcome is Outcome.FAILED
        assert f"process {process.pid}" in result.detail
        assert process.poll() is None
    assert (await _clean(session)).outcome is Outcome.DONE
