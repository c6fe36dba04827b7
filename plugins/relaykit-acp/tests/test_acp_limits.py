"""Limits: what is enforced by control groups, what is said where they cannot, and how a session over one ends.

Joining, ending and removing is done with the kernel's own groups. No controllers are to be had where these tests are
usually run, so what is written for them, and what their counters say, is in directories that look like groups.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import AgentOverLimit, SettingsError, SpawnError
from relaykit.hooks.registration import Verdict
from relaykit.relay import Relay
from relaykit.session import Cause
from relaykit.session.cleaner import Outcome
from relaykit_acp import cgroups, confinement, processes
from relaykit_acp import launcher as launching
from relaykit_acp.agent import AcpAgent
from relaykit_acp.cgroups import AgentGroup, Plan, end_group, own_group, plan
from relaykit_acp.checks import limits as look_at_limits
from relaykit_acp.cleaner import AcpCleaner
from relaykit_acp.confinement import Confinement
from relaykit_acp.environment import marker
from relaykit_acp.finding import ECHO
from relaykit_acp.limits import limits_of, size_of
from relaykit_acp.settings import AcpSettings
from support.acp_agents import QUICK, Recorder, echo, launcher, new_session, say, texts
from support.control_groups import fake_base, members, real_base
from support.durable import change_command
from support.relays import Client, active_session, echo_with, ended, following, running_relay

pytestmark = pytest.mark.anyio

LIMITS = AcpSettings(memory_max="2G", processes_max=100, cpu_max=1.5)
STRAY = "env -i setsid sleep 600 >/dev/null 2>&1 </dev/null & "
"""What an agent may start that nothing else finds again: not in its process group, and without its marker."""


def shell(script: str) -> AgentSpec:
    """Return the echo agent, started by a shell that does something first."""
    return AgentSpec(name="echo", command=("/bin/sh", "-c", f'{script} exec "$@"', "sh", *ECHO.command))


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have agents get groups of the kernel's own, without any limits."""
    with real_base() as base:

        async def opened(_settings: AcpSettings) -> Confinement:
            await anyio.lowlevel.checkpoint()
            return Confinement(base, ())

        monkeypatch.setattr(launching, "open_confinement", opened)
        yield base


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def groups(base: Path) -> list[Path]:
    return list(base.glob("relaykit-*"))


def core_limit(pid: int) -> str:
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4] for line in limits if line.startswith("Max core file size"))


# ---------------------------------------------------------------- the kernel's own groups


async def test_an_agent_is_in_its_group_from_its_start_and_ends_with_all_that_it_started(base: Path) -> None:
    session, recorder = new_session(), Recorder()
    async with launcher() as opened:
        agent = await opened.launch(shell(STRAY), session, Path.cwd(), recorder)
        assert isinstance(agent, AcpAgent)
        group = base / f"relaykit-{session.id}"
        assert recorder.facts[0]["cgroup"] == str(group)  # before it was made
        pid, *strays = sorted(members(group), key=lambda pid: pid != agent._process.pid)
        assert pid == agent._process.pid
        assert len(strays) == 1
        assert strays[0] not in processes.marked(marker(session.id))
        assert texts(await say(agent, "hello")) == ["hello"]
        with anyio.fail_after(10):
            await agent.aclose()
        assert not group.exists()
        left = processes.stat(strays[0])
        assert left is None or not left.alive  # who reaps it is not our affair


async def test_groups_in_its_group_end_with_it(base: Path) -> None:
    session = new_session()
    async with launcher() as opened:
        agent = await opened.launch(ECHO, session, Path.cwd(), Recorder())
        nested = base / f"relaykit-{session.id}" / "made by the agent"
        nested.mkdir()
        with running("/bin/sleep", "600") as stray:
            (nested / "cgroup.procs").write_text(str(stray.pid))
            with anyio.fail_after(10):
                await agent.aclose()
            assert stray.wait(10) == -signal.SIGKILL
        assert groups(base) == []


async def test_an_agent_that_does_not_start_leaves_no_group(base: Path) -> None:
    async with launcher() as opened:
        for spec in (
            AgentSpec(name="none", command=("there-is-no-such-program",)),
            shell(f"{STRAY} exit 3;"),
        ):
            with anyio.fail_after(20), pytest.raises(SpawnError):
                await opened.launch(spec, new_session(), Path.cwd(), Recorder())
            assert groups(base) == []


async def test_a_group_that_cannot_be_joined_starts_no_agent(base: Path, tmp_path: Path) -> None:
    session = new_session()
    gone = AgentGroup(tmp_path / "gone", ())
    async with launcher() as opened:
        opened._confinement.group_for = lambda session_id: gone  # type: ignore[method-assign]  # noqa: ARG005
        gone.make = lambda: None  # type: ignore[method-assign]
        with pytest.raises(SpawnError, match="before it was ready") as caught, anyio.fail_after(20):
            await opened.launch(shell("echo started >&2;"), session, base, Recorder())
        assert "started" not in str(caught.value)


@pytest.mark.parametrize("killed_by", ["cgroup.kill", "each"])
async def test_the_cleaner_ends_the_group_that_a_killed_relay_has_left(
    base: Path, killed_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if killed_by == "each":  # as before Linux 5.14
        monkeypatch.setattr(AgentGroup, "kill", lambda group: cgroups._kill_each(group.path))
    session = new_session()
    group = AgentGroup(base / f"relaykit-{session.id}", ())
    group.make()
    with running(*group.joining, "/bin/sleep", "600") as left:
        with anyio.fail_after(10):
            while left.pid not in members(group.path):  # noqa: ASYNC110 -- nobody tells of it
                await anyio.sleep(0.01)
        other = {"marker": marker("other"), "cgroup": str(group.path)}
        await AcpCleaner(QUICK).clean(replace(new_session(), resources={"acp": other}), None)
        assert members(group.path) == [left.pid]  # it is certainly another's
        recorded = {"marker": marker(session.id), "cgroup": str(group.path)}
        result = await AcpCleaner(QUICK).clean(replace(session, resources={"acp": recorded}), None)
        assert result.outcome is Outcome.DONE
        assert left.wait(10) == -signal.SIGKILL
    assert not group.path.exists()
    await end_group(group.path)  # again: nothing happens


def test_where_our_own_group_is(tmp_path: Path) -> None:
    mounts = (
        "1 2 0:1 / /sys rw - sysfs sysfs rw\n30 23 0:26 {root} {point} rw,relatime - cgroup2 cgroup2 rw\n"
    )
    for groups, root, point, own in (
        ("0::/user.slice/a.scope\n", "/", "/sys/fs/cgroup", Path("/sys/fs/cgroup/user.slice/a.scope")),
        ("3:pids:/x\n0::/\n", "/", "/sys/fs/cgroup/unified", Path("/sys/fs/cgroup/unified")),
        ("0::/docker/1/a\n", "/docker/1", "/sys/fs/cgroup", Path("/sys/fs/cgroup/a")),
        ("0::/elsewhere\n", "/docker/1", "/sys/fs/cgroup", None),
        ("3:pids:/x\n", "/", "/sys/fs/cgroup", None),
    ):
        (tmp_path / "cgroup").write_text(groups)
        (tmp_path / "mountinfo").write_text(mounts.format(root=root, point=point))
        assert own_group(tmp_path) == own
    (tmp_path / "mountinfo").write_text("1 2 0:1 / /sys rw - sysfs sysfs rw\n")
    assert own_group(tmp_path) is None
    assert own_group(tmp_path / "missing") is None


async def test_agents_leave_no_core_files() -> None:
    async with launcher() as opened:
        agent = await opened.launch(ECHO, new_session(), Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        assert core_limit(agent._process.pid) == "0"


# ---------------------------------------------------------------- what can be enforced


def why_not(own: Path | None) -> dict[str, str]:
    found = plan(limits_of(LIMITS), own)
    return {limit.setting: why for limit, why in found.unenforced}


def test_what_cannot_be_enforced_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {"memory_max", "processes_max", "cpu_max"}
    assert set(why_not(None)) == everything
    assert "cgroup2 is not mounted" in why_not(None)["memory_max"]
    without = fake_base(tmp_path / "without", controllers="cpu pids")
    assert why_not(without) == {"memory_max": f"the group {without} has no controller 'memory'"}
    with subprocess.Popen(["/bin/sleep", "600"]) as ours:
        shared = fake_base(tmp_path / "shared", inside=f"1\n{os.getpid()}\n{ours.pid}\n")
        assert why_not(shared)["cpu_max"] == f"other programs are in the group {shared} too (processes 1)"
        alone = fake_base(tmp_path / "alone", inside=f"{os.getpid()}\n{ours.pid}\n")
        found = plan(limits_of(LIMITS), alone)
        ours.kill()
    assert (found.base, list(found.moving)) == (alone, [os.getpid(), ours.pid])
    assert list(found.enabling) == ["memory", "pids", "cpu"]
    assert "cannot be read" in why_not(tmp_path / "missing")["memory_max"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert why_not(alone)["memory_max"] == f"the group {alone} is not this user's to divide"


def test_the_relay_moves_out_of_the_way_and_finds_its_place_again(tmp_path: Path) -> None:
    base = fake_base(tmp_path / "unit", inside=f"{os.getpid()}\n")
    cgroups.carry_out(plan(limits_of(LIMITS), base))
    assert members(base / "relaykit-relay") == [os.getpid()]
    assert (base / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    (base / "cgroup.subtree_control").write_text("cpu memory pids\n")  # as the kernel shows it
    again = plan(limits_of(LIMITS), base / "relaykit-relay")
    assert (again.base, again.enabling, again.moving) == (base, [], ())


@pytest.mark.parametrize(("times", "number", "works"), [(1, 16, True), (99, 16, False), (1, 1, False)])
def test_one_of_ours_that_is_started_while_the_relay_moves_is_moved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, number: int, *, works: bool
) -> None:
    base = fake_base(tmp_path / "unit", inside=f"{os.getpid()}\n")
    write_text, refusals = Path.write_text, [OSError(number, os.strerror(number))] * times

    def written(path: Path, text: str) -> int:
        if path.name == "cgroup.subtree_control" and refusals:
            write_text(base / "cgroup.procs", "12345\n")
            raise refusals.pop()
        return write_text(path, text)

    monkeypatch.setattr(Path, "write_text", written)
    prepared = plan(limits_of(LIMITS), base)
    if works:
        cgroups.carry_out(prepared)
        assert members(base / "relaykit-relay") == [12345]
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            cgroups.carry_out(prepared)


def test_what_is_said_of_limits_before_the_relay_starts(tmp_path: Path) -> None:
    [nothing] = look_at_limits(AcpSettings(), None)
    assert nothing.verdict is Verdict.OK
    base = fake_base(tmp_path / "unit", controllers="pids cpu")
    found = look_at_limits(LIMITS, base)
    assert [finding.verdict for finding in found] == [Verdict.OK, Verdict.OK, Verdict.WARNING]
    assert found[0].what == f"processes_max = 100 can be enforced, below {base}"
    assert found[2].what == (
        f"memory_max = \"2G\" is not enforced by a relay that starts here: the group {base} has no controller 'memory'"
    )
    assert "Delegate=yes" in found[2].fix
    assert not (base / "relaykit-relay").exists()  # nothing was changed


async def test_what_is_not_enforced_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups, "own_group", lambda: None)
    async with launcher(LIMITS) as opened:
        assert opened._confinement.group_for("s1") is None
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(":")[0] for text in said] == [
        'memory_max = "2G" in [plugins.acp] is NOT enforced',
        "processes_max = 100 in [plugins.acp] is NOT enforced",
        "cpu_max = 1.5 in [plugins.acp] is NOT enforced",
    ]
    caplog.clear()
    base = fake_base(tmp_path / "unit")

    def refuse(_plan: Plan) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cgroups, "own_group", lambda: base)
    monkeypatch.setattr(cgroups, "carry_out", refuse)
    async with launcher(LIMITS) as opened:
        assert opened._confinement.group_for("s1") is None
    assert caplog.text.count("cannot be divided: Operation not permitted") == 3
    caplog.clear()
    async with launcher():
        pass
    assert "enforced" not in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("memory_max", '"much"', "'much' is no size"),
        ("memory_max", '"0"', "'0' is no size"),
        ("processes_max", "-1", "processes_max must be 0 or more"),
        ("cpu_max", "0.001", "cpu_max must be 0.01 or more, or 0"),
    ],
)
async def test_settings_that_make_no_sense(tmp_path: Path, key: str, value: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        async with running_relay(tmp_path, toml=f"[plugins.acp]\n{key} = {value}"):
            pass


def test_sizes() -> None:
    assert [size_of(text) for text in ("7", "1K", "512M", "2G", "1T")] == [
        7,
        1024,
        512 << 20,
        2 << 30,
        1 << 40,
    ]


# ---------------------------------------------------------------- over a limit


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have limits be written, and counted, in a directory that looks like a control group."""
    base = fake_base(tmp_path / "unit")
    monkeypatch.setattr(cgroups, "own_group", lambda: base)
    monkeypatch.setattr(confinement, "_LOOK", 0.05)
    return base


def limited(tmp_path: Path, *, toml: str = "") -> contextlib.AbstractAsyncContextManager[Relay]:
    return running_relay(
        tmp_path,
        toml=toml,
        PLUGINS__ACP__MEMORY_MAX="2G",
        PLUGINS__ACP__PROCESSES_MAX="100",
        PLUGINS__ACP__CPU_MAX="1.5",
    )


async def agent_of(client: Client) -> int:
    session = await client.relay.require(client.session_id)
    pid: int = session.resources["acp"]["pid"]
    return pid


async def how_it_ended(client: Client) -> str:
    await client.until_the_end()
    await ended(client.relay, client.session_id)
    session = await client.relay.find(client.session_id)
    assert session.cause is Cause.LIMIT
    return str(session.reason)


async def test_a_session_over_a_limit_ends_with_that_cause(fake: Path, tmp_path: Path) -> None:
    async with limited(tmp_path) as relay:
        async with active_session(relay, "one") as client:
            group = fake / f"relaykit-{client.session_id}"
            assert {path.name: path.read_text() for path in group.iterdir()} == {
                "memory.max": str(2 << 30),
                "pids.max": "100",
                "cpu.max": "150000 100000",
                "cgroup.procs": "0\n",  # the agent, which wrote it itself
            }
            await client.say("/sleep 600", "t1")
            await client.until(lambda entry: entry.frame.ref == "t1")
            # As the kernel does it: it counts, and ends all in the group.
            (group / "memory.events").write_text(
                "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n"
            )
            os.kill(await agent_of(client), signal.SIGKILL)
            reason = await how_it_ended(client)
            assert reason == (
                "agent 'echo': it was ended because it went over its limit, memory_max = \"2G\" in [plugins.acp]"
            )
            end = await client.until_turn_end("t1")
            assert json.loads(end.frame.body)["message"] == f"interrupted: {reason}"
        async with active_session(relay, "two") as client:
            group = fake / f"relaykit-{client.session_id}"
            (group / "cgroup.procs").write_text(f"{await agent_of(client)}\n")
            (group / "pids.events").write_text(
                "max 1\n"
            )  # a process could not be started: the agent lives on
            assert "processes_max = 100 in [plugins.acp]" in await how_it_ended(client)


async def test_one_over_a_limit_while_it_starts_or_wakes(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = echo_with("--exit", "3", name="mortal")
    async with limited(tmp_path, toml=toml) as relay, active_session(relay) as client:
        live = relay.live(client.session_id)
        await live.fall_asleep("it is late")
        change_command(live, [*ECHO.command, "--exit", "3"])
        monkeypatch.setattr(AgentGroup, "exceeded", lambda group: group._limits[0])
        await client.say("hello", "t1")
        assert 'memory_max = "2G"' in await how_it_ended(client)
        session = await relay.create("second", agent="mortal")
        async with following(relay, session.id) as follower:
            assert 'memory_max = "2G"' in await how_it_ended(follower)
    async with launcher(replace(QUICK, memory_max="2G")) as opened:
        with anyio.fail_after(20), pytest.raises(AgentOverLimit) as caught:
            await opened.launch(echo("--exit", "3"), new_session(), fake, Recorder())
        assert caught.value.limit == 'memory_max = "2G" in [plugins.acp]'
        assert "its last words were:\necho: told to exit" in str(caught.value)


async def test_what_was_counted_before_is_not_this_agents(tmp_path: Path) -> None:
    path = tmp_path / "relaykit-s1"
    path.mkdir()
    (path / "pids.events").write_text("max 7\n")
    group = AgentGroup(path, limits_of(LIMITS))
    group.make()
    assert group.exceeded() is None
    (path / "pids.events").write_text("max 8\n")
    exceeded = group.exceeded()
    assert exceeded is not None
    assert exceeded.setting == "processes_max"


def test_a_machine_that_is_out_of_memory_is_not_an_agent_over_its_limit(tmp_path: Path) -> None:
    group = AgentGroup(tmp_path, limits_of(LIMITS))
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\noom_group_kill 1\n")
    assert group.exceeded() is None
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n")
    assert str(group.exceeded()) == 'memory_max = "2G"'
