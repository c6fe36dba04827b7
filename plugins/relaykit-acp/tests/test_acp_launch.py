from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import anyio
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import (
    AgentExited,
    AgentProtocolError,
    InitializeTimeout,
    LoginRequired,
    ProgramNotFound,
    SpawnError,
    WorkingDirectoryMissing,
)
from relaykit.session.model import Json, Session
from relaykit.testing import Interruption
from relaykit_acp import processes
from relaykit_acp.finding import ECHO
from relaykit_acp.settings import AcpSettings
from support.acp_agents import (
    QUICK,
    Recorder,
    echo,
    launcher,
    new_session,
    running,
    say,
    survivors,
    texts,
)
from support.agent_programs import ECHO_SCRIPT, install

pytestmark = pytest.mark.anyio

IMPATIENT = AcpSettings(initialize_timeout=0.5, eof_grace=QUICK.eof_grace, term_grace=QUICK.term_grace)


def _command(*words: str) -> AgentSpec:
    return AgentSpec(name="echo", command=words)


def _script(text: str) -> AgentSpec:
    """Return an agent that does `text` in a shell first; ``"$@"`` there is the echo agent."""
    return AgentSpec(name="echo", command=("sh", "-c", text, "sh", *ECHO.command))


async def _refusal(
    spec: AgentSpec, *, cwd: Path | None = None, settings: AcpSettings = QUICK, session: Session | None = None
) -> SpawnError:
    """Launch an agent that cannot be launched: return the error, once nothing of it is left."""
    session = session or new_session()
    async with launcher(settings) as opened:
        with anyio.fail_after(20), pytest.raises(SpawnError) as caught:
            await opened.launch(spec, session, cwd or Path.cwd(), Recorder())
        assert await survivors(session) == []
    assert caught.value.agent == "echo"
    return caught.value


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "/no/such/program", "./pyproject.toml"])
async def test_a_missing_program(program: str) -> None:
    error = await _refusal(_command(program))
    assert isinstance(error, ProgramNotFound)
    assert error.program == program
    assert "[agents.echo]" in str(error)


async def test_a_program_that_the_system_cannot_run(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_bytes(b"\x00\x01 neither a script nor a binary")
    program.chmod(0o700)
    error = await _refusal(_command(str(program)))
    assert isinstance(error, ProgramNotFound)


async def test_a_script_whose_interpreter_is_missing(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o700)
    error = await _refusal(_command(str(program)))
    assert isinstance(error, ProgramNotFound)


async def test_a_program_in_the_working_directory_is_not_taken_for_the_agent(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    assert isinstance(await _refusal(_command("./agent"), cwd=tmp_path), ProgramNotFound)


async def test_a_missing_directory(tmp_path: Path) -> None:
    for directory in (tmp_path / "gone", Path(__file__)):
        error = await _refusal(ECHO, cwd=directory)
        assert isinstance(error, WorkingDirectoryMissing)
        assert error.directory == str(directory)


async def test_a_directory_that_goes_away_at_the_last_moment(tmp_path: Path) -> None:
    directory = tmp_path / "work"
    directory.mkdir()

    async def remove(_facts: Json) -> None:
        await anyio.Path(directory).rmdir()

    async with launcher() as opened:
        with pytest.raises(WorkingDirectoryMissing):
            await opened.launch(ECHO, new_session(), directory, remove)


async def test_an_agent_that_exits_at_once() -> None:
    error = await _refusal(echo("--exit", "7"))
    assert isinstance(error, AgentExited)
    assert error.exit_code == 7
    assert error.stderr == "echo: told to exit"


async def test_an_agent_that_exits_with_a_word_on_stdout() -> None:
    error = await _refusal(_command("sh", "-c", "echo this agent has retired"))
    assert isinstance(error, AgentExited)
    assert error.exit_code == 0
    assert "this agent has retired" in str(error)


async def test_an_agent_that_exits_while_its_child_holds_the_pipes() -> None:
    error = await _refusal(_command("sh", "-c", "sleep 600 & exit 3"))
    assert isinstance(error, AgentExited)
    assert error.exit_code == 3


async def test_an_agent_that_closes_its_output() -> None:
    error = await _refusal(_command("sh", "-c", "exec 1>&-; exec sleep 600"))
    assert isinstance(error, AgentProtocolError)
    assert "closed its output" in str(error)


@pytest.mark.parametrize(
    ("flag", "method"), [("--no-initialize", "initialize"), ("--no-session", "session/new")]
)
async def test_an_agent_that_does_not_answer(flag: str, method: str) -> None:
    error = await _refusal(echo(flag), settings=IMPATIENT)
    assert isinstance(error, InitializeTimeout)
    assert (error.method, error.seconds) == (method, 0.5)


async def test_a_program_that_speaks_something_else() -> None:
    error = await _refusal(_command("yes"), settings=IMPATIENT)
    assert isinstance(error, InitializeTimeout)
    assert "its last words were:\ny" in str(error)


async def test_a_program_that_says_back_what_it_hears() -> None:
    assert isinstance(await _refusal(_command("cat")), AgentProtocolError)


async def test_an_agent_that_wants_a_login() -> None:
    error = await _refusal(echo("--login-required", login="echo login"))
    assert isinstance(error, LoginRequired)
    assert error.login == "echo login"
    assert "`echo login`" in str(error)
    assert "Authentication required" in str(error)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--refuse",), "it refused 'session/new': no session today (-32603)"),
        (("--version", "2"), "it speaks version 2 of ACP, and relaykit speaks 1"),
    ],
)
async def test_an_agent_that_answers_otherwise(flags: tuple[str, ...], said: str) -> None:
    error = await _refusal(echo(*flags))
    assert isinstance(error, AgentProtocolError)
    assert said in str(error)


@pytest.mark.parametrize(
    "answer", ['"result":{}', '"result":3', '"error":"no"', '"error":{}', '"result":NaN']
)
async def test_an_agent_whose_answer_is_not_acp(answer: str) -> None:
    error = await _refusal(_command("sh", "-c", f"echo '{{\"id\":1,{answer}}}'; exec cat >/dev/null"))
    assert isinstance(error, AgentProtocolError)


async def test_an_answer_over_the_limit() -> None:
    settings = AcpSettings(eof_grace=0.3, term_grace=0.3, max_frame_bytes=10_000)
    error = await _refusal(_command("sh", "-c", "head -c 20000 /dev/zero; exec cat"), settings=settings)
    assert isinstance(error, AgentProtocolError)
    assert "longer than 10000 bytes" in str(error)


# ---------------------------------------------------------------- what an agent is given


async def test_what_identifies_it_is_recorded_before_it_starts_and_after() -> None:
    session = new_session()
    before: list[list[int]] = []
    recorder = Recorder()

    async def record(facts: Json) -> None:
        before.append(await survivors(session))
        await recorder(facts)

    async with launcher() as opened:
        agent = await opened.launch(ECHO, session, Path.cwd(), record)
        first, second, third = recorder.facts
        assert before[0] == []
        assert first == {"marker": f"RELAYKIT_SESSION={session.id}", "command": list(ECHO.command)}
        assert before[1] == [second["pid"]]
        stat = processes.stat(second["pid"])
        assert stat is not None
        assert second == {
            **first,
            "pid": stat.pid,
            "pgid": stat.group,
            "start_time": stat.start_time,
            "boot": processes.boot_id(),
        }
        conversation = third["conversation"]
        assert third == {**second, "conversation": conversation}
        assert conversation["session"].startswith("sess-")
        assert conversation["resume"] == "session/resume"
        assert json.loads(json.dumps(third)) == third
        await agent.aclose()


async def test_an_agent_sees_the_safe_list_and_what_it_was_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not for you")
    monkeypatch.setenv("MY_SECRET", "not for you")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    session = new_session()
    async with running(echo(env={"GRANTED": "yes", "LC_TIME": "C.UTF-8"}), session=session) as agent:
        seen = json.loads(texts(await say(agent, "/env"))[0])
    assert seen["GRANTED"] == "yes"
    assert seen["LC_TIME"] == "C.UTF-8"
    assert seen["XDG_DATA_HOME"] == "/data"
    assert seen["PATH"] == os.environ["PATH"]
    assert seen["RELAYKIT_SESSION"] == session.id
    assert seen["RELAYKIT_NODE"] == "local"
    assert "not for you" not in seen.values()
    ours = {name for name in seen if name in os.environ and not name.startswith(("LC_", "XDG_", "RELAYKIT_"))}
    assert ours <= {
        "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"
    }  # fmt: skip


async def test_the_program_is_found_on_the_agents_own_path(tmp_path: Path) -> None:
    program = tmp_path / "my-agent"
    program.write_text(f'#!/bin/sh\nexec {" ".join(ECHO.command)} "$@"\n')
    program.chmod(0o700)
    path = f"{tmp_path}:{os.environ['PATH']}"
    async with running(AgentSpec(name="echo", command=("my-agent",), env={"PATH": path})) as agent:
        assert texts(await say(agent, "hello")) == ["hello"]


async def test_it_also_runs_as_a_module() -> None:
    async with running(_command(sys.executable, "-m", "relaykit_acp.echo_agent")) as agent:
        assert texts(await say(agent, "hello")) == ["hello"]


# ---------------------------------------------------------------- failure and cancellation


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_nothing_is_left_when_recording_fails(fails_at: int) -> None:
    session = new_session()
    calls = 0

    async def record(_facts: Json) -> None:
        nonlocal calls
        calls += 1
        await anyio.lowlevel.checkpoint()
        if calls == fails_at:
            raise OSError("the store is gone")

    async with launcher() as opened:
        with anyio.fail_after(10), pytest.raises(OSError, match="the store is gone"):
            await opened.launch(ECHO, session, Path.cwd(), record)
        assert calls == fails_at
        assert await survivors(session) == []


async def test_a_launch_that_is_cancelled_at_any_await_leaves_nothing() -> None:
    async with launcher() as opened:
        for at in range(1, 200):
            session = new_session()
            with anyio.fail_after(20), anyio.CancelScope() as scope:
                launch = Interruption(
                    opened.launch(ECHO, session, Path.cwd(), Recorder()), at=at, cancel=scope.cancel
                )
                agent = await launch
                if not launch.happened:
                    await agent.aclose()
                    break
            if scope.cancelled_caught:
                assert await survivors(session) == [], at
                assert not opened._household.live, at
            else:
                await agent.aclose()
        else:
            pytest.fail("the launch has more awaits than were tried")
        assert at > 5


# ---------------------------------------------------------------- the launcher's own end


async def test_leaving_the_launcher_stops_every_agent() -> None:
    sessions = [new_session() for _ in range(3)]
    async with launcher() as opened:
        for session in sessions:
            await opened.launch(echo("--ignore-signals"), session, Path.cwd(), Recorder())
        assert all([await survivors(session) for session in sessions])
    assert not any([await survivors(session) for session in sessions])


async def test_an_error_leaves_the_launcher_as_it_is() -> None:
    session = new_session()

    async def fail() -> None:
        async with launcher() as opened:
            await opened.launch(ECHO, session, Path.cwd(), Recorder())
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert await survivors(session) == []


async def test_a_cancelled_block_stops_every_agent() -> None:
    session = new_session()
    with anyio.CancelScope() as scope:
        async with launcher() as opened:
            await opened.launch(echo("--ignore-signals"), session, Path.cwd(), Recorder())
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await survivors(session) == []


# ---------------------------------------------------------------- profiles


async def test_a_profile_is_the_answer_to_initialize_and_is_asked_for_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = _script(f'pwd >>{log}; ls -A | wc -l >>{log}; exec "$@"')
    async with launcher() as opened:
        answers: list[Json] = []

        async def ask() -> None:
            answers.append(await opened.profile(spec))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)
        assert len(answers) == 5
        assert all(answer == answers[0] for answer in answers)
        assert answers[0]["agentInfo"]["name"] == "relaykit-echo"
        assert not opened._household.live
    directory, files = log.read_text().split()
    assert f"/{Path(tempfile.gettempdir()).name}/relaykit-" in directory
    assert not await anyio.Path(directory).exists()
    assert files == "0"


@pytest.mark.parametrize("named_by", ["program", "argument"])
async def test_a_profile_is_asked_for_anew_once_the_program_was_replaced(
    tmp_path: Path, named_by: str
) -> None:
    log = tmp_path / "log"
    install(tmp_path, "agent", script=f"echo >>{log}; {ECHO_SCRIPT}")
    os.utime(tmp_path / "agent", (0, 0))
    spec = _command("sh", str(tmp_path / "agent"))
    if named_by == "program":
        spec = AgentSpec("echo", ("agent",), {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    async with launcher() as opened:
        with anyio.fail_after(20):
            for _ in range(2):
                await opened.profile(spec)
            assert log.read_text() == "\n"
            install(tmp_path, "new", script=f"echo >>{log}; {ECHO_SCRIPT} --version 1")
            os.utime(tmp_path / "new", (0, 0))  # as npm does it: a file's time tells nothing
            await anyio.Path(tmp_path / "new").replace(tmp_path / "agent")
            for _ in range(2):
                await opened.profile(spec)
        assert log.read_text() == "\n\n"


async def test_a_profile_that_fails_fails_for_all_who_waited_and_is_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = _script(f'echo >>{log}; test -e {tmp_path}/fixed || exit 4; exec "$@"')
    async with launcher() as opened:
        codes: list[int | None] = []

        async def ask() -> None:
            with pytest.raises(AgentExited) as caught:
                await opened.profile(spec)
            codes.append(caught.value.exit_code)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)
        assert codes == [4] * 5
        assert log.read_text() == "\n"
        (tmp_path / "fixed").touch()
        assert (await opened.profile(spec))["protocolVersion"] == 1


async def test_a_cancelled_profile_leaves_nothing_and_the_next_caller_asks_again(tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)  # whoever reads it waits until somebody writes
    hangs_once = (
        f'test -e {tmp_path}/once || {{ touch {tmp_path}/once; echo >{started}; sleep 600; }}; exec "$@"'
    )
    async with launcher() as opened:
        answers: list[Json] = []

        async def ask() -> None:
            answers.append(await opened.profile(_script(hangs_once)))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as others:
                async with anyio.create_task_group() as first:
                    first.start_soon(ask)
                    with anyio.fail_after(10):
                        await anyio.Path(started).read_text()
                    others.start_soon(ask)
                    await anyio.wait_all_tasks_blocked()
                    first.cancel_scope.cancel()
                assert answers == []
        assert len(answers) == 1
        assert not opened._household.live
