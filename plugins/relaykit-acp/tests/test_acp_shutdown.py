from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.session.model import Session
from relaykit_acp import processes
from relaykit_acp.agent import AcpAgent
from relaykit_acp.finding import ECHO
from relaykit_acp.settings import AcpSettings
from support import faulty_agent
from support.acp_agents import (
    QUICK,
    Recorder,
    echo,
    launcher,
    new_session,
    prompt,
    say,
    survivors,
    texts,
)

pytestmark = pytest.mark.anyio

PATIENT = AcpSettings(eof_grace=20.0, term_grace=20.0)
ONLY_TERM = AcpSettings(eof_grace=0.3, term_grace=20.0)
# Both graces, and time for a busy machine.
WITHIN = QUICK.eof_grace + QUICK.term_grace + 5.0


async def _close(agent: AcpAgent, session: Session, *, within: float = WITHIN) -> None:
    """Close the agent in time; nothing of the session is left, and its process is reaped."""
    with anyio.fail_after(within):
        await agent.aclose()
    assert await survivors(session) == []
    assert processes.stat(agent._process.pid) is None
    assert processes.led_by({agent._process.pid}) == {}


@pytest.mark.parametrize(
    ("flags", "settings", "code"),
    [
        ((), PATIENT, 0),
        (("--ignore-eof",), ONLY_TERM, -15),
        (("--ignore-signals",), QUICK, -9),
    ],
)
async def test_each_rung_of_the_ladder(flags: tuple[str, ...], settings: AcpSettings, code: int) -> None:
    session = new_session()
    async with launcher(settings) as opened:
        agent = await opened.launch(echo(*flags), session, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        await _close(agent, session)
        assert agent.exit_code == code


@pytest.mark.parametrize("where", ["", "setsid"])
@pytest.mark.parametrize("end", ["lives", "crashed", "stubborn"])
async def test_children_that_ignore_term_and_hold_the_pipes(where: str, end: str) -> None:
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(ECHO, session, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        said = texts(await say(agent, f"/children 3 {where}"))[0]
        children = [int(pid) for pid in said.removeprefix("children: ").split()]
        assert sorted(await survivors(session)) == sorted([agent._process.pid, *children])
        if end == "crashed":
            await agent.send(prompt("/crash"))
            with anyio.fail_after(10):
                await agent._process.exited.wait()
        elif end == "stubborn":
            await say(agent, "/ignore-signals")
        await _close(agent, session)


FAULTY = AgentSpec(name="faulty", command=faulty_agent.COMMAND)


@pytest.mark.parametrize("how", ["orphan", "group", "group bare", "orphan setsid"])
@pytest.mark.parametrize("crashed", [False, True])
async def test_what_is_nobodys_child_any_more_or_in_another_group(how: str, *, crashed: bool) -> None:
    # With no environment, in a group of its own, and by a parent that is gone: it is in the agent's session still.
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(FAULTY, session, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        said = texts(await say(agent, f"/children 2 {how}"))[0]
        children = [int(pid) for pid in said.removeprefix("children: ").split()]
        if crashed:
            await agent.send(prompt("/crash"))
            with anyio.fail_after(10):
                await agent._process.exited.wait()
        await _close(agent, session)
        for pid in children:
            stat = processes.stat(pid)
            assert stat is None or not stat.alive


async def test_no_group_is_signalled_whose_leader_the_host_has_reaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its number may have been given to another by then.
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(FAULTY, session, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        await say(agent, "/children 1")
        pid = agent._process.pid
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 -- it has been killed
        monkeypatch.setattr(os, "killpg", None)
        await _close(agent, session)


async def test_the_pid_of_an_agent_that_has_ended_is_nobody_elses_until_it_is_closed() -> None:
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(FAULTY, session, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        await agent.send(prompt("/crash 3"))
        with anyio.fail_after(10):
            await agent._process.exited.wait()
        assert agent.exit_code == 3
        stat = processes.stat(agent._process.pid)
        assert stat is not None
        assert not stat.alive
        await _close(agent, session)


async def test_an_agent_that_is_a_wrappers_child() -> None:
    session = new_session()
    wrapper = AgentSpec(name="echo", command=("sh", "-c", '"$@"; true', "sh", *ECHO.command, "--ignore-eof"))
    async with launcher() as opened:
        agent = await opened.launch(wrapper, session, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        assert len(await survivors(session)) == 2
        await _close(agent, session)


@pytest.mark.parametrize("text", ["/deaf", "/flood 50 garbage", "/close-stdout"])
async def test_a_busy_agent(text: str) -> None:
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(ECHO, session, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        await agent.send(prompt(text))
        await _close(agent, session)


async def test_closing_twice_and_at_once() -> None:
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(echo("--ignore-signals"), session, Path.cwd(), Recorder())
        left: list[list[int]] = []

        async def close() -> None:
            await agent.aclose()
            left.append(await survivors(session))

        with anyio.fail_after(WITHIN):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(close)
            await close()
        assert left == [[]] * 6
        assert not opened._household.live


async def test_closing_goes_on_when_its_caller_is_cancelled() -> None:
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(echo("--ignore-signals"), session, Path.cwd(), Recorder())
        with anyio.fail_after(WITHIN), anyio.CancelScope() as scope:
            scope.cancel()
            await agent.aclose()
        assert await survivors(session) == []


async def test_a_reader_hears_the_end() -> None:
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(echo("--ignore-signals"), session, Path.cwd(), Recorder())
        heard: list[bool] = []

        async def read() -> None:
            with pytest.raises(anyio.EndOfStream):
                await agent.receive()
            heard.append(True)

        with anyio.fail_after(WITHIN):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await agent.aclose()
        assert heard == [True]


async def test_other_sessions_live_on() -> None:
    one, other = new_session(), new_session()
    async with launcher() as opened:
        stopped = await opened.launch(ECHO, one, Path.cwd(), Recorder())
        agent = await opened.launch(ECHO, other, Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        await say(agent, "/children 1 setsid")
        await stopped.aclose()
        assert len(await survivors(other)) == 2
        assert texts(await say(agent, "hello")) == ["hello"]
