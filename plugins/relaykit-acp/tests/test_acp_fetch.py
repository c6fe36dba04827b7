"""Agents that come through npx: fetched before they are started, once, and in nobody's worktree."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import FetchFailed, ProgramNotFound
from relaykit.ids import SystemIds
from relaykit_acp.agent import AcpAgent
from relaykit_acp.fetch import _find_program
from relaykit_acp.launcher import AcpLauncher, open_acp_launcher
from relaykit_acp.npx import NpxCommand, parse_npx
from support.acp_agents import QUICK, Recorder, new_session, say, survivors, texts
from support.agent_programs import install
from support.npm_registry import PACKAGE, PROGRAM, Registry, needs_npx, npm_registry
from support.relays import following, relay_settings, running_relay

pytestmark = pytest.mark.anyio

PATIENCE = 40


@pytest.fixture
def registry() -> Iterator[Registry]:
    with npm_registry() as opened:
        opened.publish("1.0.0")
        yield opened


@asynccontextmanager
async def launcher(
    directory: Path, *, initialize_timeout: float = 20.0, fetch_timeout: float = 60.0
) -> AsyncIterator[AcpLauncher]:
    """Open a launcher with quick graces, whose fetches happen in `directory`."""
    settings = replace(QUICK, initialize_timeout=initialize_timeout, fetch_timeout=fetch_timeout)
    async with open_acp_launcher(settings, ids=SystemIds(), directory=directory / "scratch") as opened:
        yield opened


def tiny(registry: Registry, home: Path, *words: str) -> AgentSpec:
    """Return the agent that is the package's program."""
    command = ("npx", "--yes", *(words or (f"{PACKAGE}@1",)))
    return AgentSpec(name="tiny", command=command, env=registry.environment(home))


async def launched(opened: AcpLauncher, spec: AgentSpec, cwd: Path) -> AcpAgent:
    agent = await opened.launch(spec, new_session(), cwd, Recorder())
    assert isinstance(agent, AcpAgent)
    return agent


async def nothing_runs(home: Path) -> None:
    """Check that no process is left that uses this home."""
    wanted = f"npm_config_cache={home / 'npm'}".encode()

    def found() -> list[str]:
        running = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    running.append((entry / "cmdline").read_bytes().decode())
            except OSError:
                continue  # it ended, or is another user's
        return running

    assert await anyio.to_thread.run_sync(found) == []


# ---------------------------------------------------------------- with npx


@needs_npx
async def test_it_is_fetched_outside_the_time_to_be_ready_in_and_once_for_all_who_wait(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    registry.open.clear()
    agents: list[AcpAgent] = []
    async with launcher(tmp_path, initialize_timeout=3.0) as opened:

        async def launch() -> None:
            agents.append(await launched(opened, tiny(registry, tmp_path), tmp_path))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(launch)
                await anyio.sleep(3.1)  # longer than an agent has for its first answers
                registry.open.set()
            assert texts(await say(agents[0], "hello")) == ["hello"]
        assert len(registry.archives_asked()) == 1
        assert len([line for line in caplog.messages if "fetches it now if it is not here" in line]) == 1
        assert list((tmp_path / "scratch").iterdir()) == []
        asked = len(registry.asked)
        with anyio.fail_after(PATIENCE):
            await launched(opened, tiny(registry, tmp_path), tmp_path)
        assert len(registry.asked) == asked  # no start asks the registry again
    await nothing_runs(tmp_path)


@needs_npx
async def test_a_sessions_directory_does_not_say_what_becomes_the_agent(
    registry: Registry, tmp_path: Path
) -> None:
    worktree = tmp_path / "worktree"
    trap = tmp_path / "trapped"
    for place in (worktree / "node_modules" / PACKAGE, worktree / "node_modules" / ".bin"):
        place.mkdir(parents=True)
        program = place / PROGRAM
        program.write_text(f"#!/bin/sh\ntouch {trap}\n")
        program.chmod(0o755)
    description = {"name": PACKAGE, "version": "1.9.9", "bin": {PROGRAM: PROGRAM}}
    (worktree / "node_modules" / PACKAGE / "package.json").write_text(json.dumps(description))
    (worktree / "package.json").write_text(json.dumps({"dependencies": {PACKAGE: "1.9.9"}}))
    (worktree / ".npmrc").write_text("registry=http://127.0.0.1:1/\n")
    async with launcher(tmp_path) as opened:
        with anyio.fail_after(PATIENCE):
            agent = await launched(opened, tiny(registry, tmp_path), worktree)
            assert texts(await say(agent, "hello")) == ["hello"]
    assert not trap.exists()


@needs_npx
async def test_what_npm_says_is_in_the_error_and_the_next_start_tries_anew(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    spec = tiny(registry, tmp_path, f"{PACKAGE}@2")
    async with launcher(tmp_path) as opened:
        with anyio.fail_after(PATIENCE), pytest.raises(FetchFailed) as caught:
            await launched(opened, spec, tmp_path)
        assert caught.value.package == f"{PACKAGE}@2"
        message = str(caught.value)
        assert message.startswith(
            f"agent 'tiny': npx could not fetch '{PACKAGE}@2': it exited with 1. Try `npx "
        )
        assert f"`npx --yes --package {PACKAGE}@2 -c true`" in message
        assert "name its program in `command` of [agents.tiny]" in message
        assert "; its last words were:\n" in message
        assert "ETARGET" in message  # npm's own word for it
        assert any("ETARGET" in line for line in caplog.messages)
        assert "not here;" in caplog.text
        registry.publish("2.0.0")
        with anyio.fail_after(PATIENCE):
            agent = await launched(opened, spec, tmp_path)
            assert texts(await say(agent, "hello")) == ["hello"]


@needs_npx
async def test_a_registry_that_never_answers(registry: Registry, tmp_path: Path) -> None:
    registry.open.clear()
    async with launcher(tmp_path, fetch_timeout=1.5) as opened:
        with anyio.fail_after(PATIENCE), pytest.raises(FetchFailed) as caught:
            await launched(opened, tiny(registry, tmp_path), tmp_path)
        assert "it took longer than 1.5 s (`fetch_timeout` in [plugins.acp])" in str(caught.value)
        await nothing_runs(tmp_path)


@needs_npx
async def test_a_fetch_that_is_cancelled_leaves_nothing_and_who_waits_fetches(
    registry: Registry, tmp_path: Path
) -> None:
    registry.open.clear()
    async with launcher(tmp_path) as opened:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as first:
                first.start_soon(launched, opened, tiny(registry, tmp_path), tmp_path)
                while not registry.asked:  # noqa: ASYNC110 -- the registry is a thread
                    await anyio.sleep(0.01)
                first.cancel_scope.cancel()
            await nothing_runs(tmp_path)
            assert not opened._household.live
            registry.open.set()
            agent = await launched(opened, tiny(registry, tmp_path), tmp_path)
            assert texts(await say(agent, "hello")) == ["hello"]


@needs_npx
async def test_what_was_fetched_and_is_gone_is_fetched_again_and_its_profile_is_asked_anew(
    registry: Registry, tmp_path: Path
) -> None:
    spec = tiny(registry, tmp_path, "--package", f"{PACKAGE}@1", "--", "other", "--banner")
    registry.publish("1.1.0", programs=(PROGRAM, "other"))
    async with launcher(tmp_path) as opened:
        with anyio.fail_after(PATIENCE):
            for _ in range(2):
                assert (await opened.profile(spec))["agentInfo"]["name"] == "relaykit-echo"
            first = opened._profiles[spec.command]._key
            await anyio.to_thread.run_sync(shutil.rmtree, tmp_path / "npm")
            assert (await opened.profile(spec))["protocolVersion"] == 1
        assert opened._profiles[spec.command]._key != first
        assert registry.archives_asked() == ["/1.1.0.tgz", "/1.1.0.tgz"]


@needs_npx
async def test_a_package_without_the_program(registry: Registry, tmp_path: Path) -> None:
    spec = tiny(registry, tmp_path, "--package", f"{PACKAGE}@1", "--", "no-such-program")
    async with launcher(tmp_path) as opened:
        with (
            anyio.fail_after(PATIENCE),
            pytest.raises(FetchFailed, match="it has no program no-such-program"),
        ):
            await launched(opened, spec, tmp_path)


@needs_npx
async def test_a_session_whose_agent_cannot_be_fetched_says_why(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = registry.environment(tmp_path)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    command = ["npx", "-y", f"{PACKAGE}@7"]
    toml = f"[agents.tiny]\ncommand = {json.dumps(command)}\nenv = {json.dumps(list(given))}\n"
    async with running_relay(tmp_path, toml=toml) as relay:
        session = await relay.create("auth", agent="tiny")
        async with following(relay, session.id) as client:
            last = await client.until_notice("ended")
        assert last["cause"] == "SPAWN_FAILED"
        assert f"npx could not fetch '{PACKAGE}@7': it exited with 1" in last["reason"]
        assert "ETARGET" in last["reason"]
        assert await survivors(session) == []
        assert relay_settings(tmp_path).state_dir.joinpath("acp").is_dir()  # where npx finds nobody's files


# ---------------------------------------------------------------- without


async def test_without_npx_there_is_no_such_program(tmp_path: Path) -> None:
    spec = AgentSpec(name="tiny", command=("npx", "-y", "tiny"), env={"PATH": str(tmp_path)})
    async with launcher(tmp_path) as opened:
        with pytest.raises(ProgramNotFound, match="'npx' was not found"):
            await launched(opened, spec, tmp_path)


def npx(package: str, name: str, program: str | None, *arguments: str) -> NpxCommand:
    return NpxCommand(npx="npx", package=package, name=name, program=program, arguments=arguments)


@pytest.mark.parametrize(
    ("command", "parsed"),
    [
        ("npx tiny", npx("tiny", "tiny", None)),
        ("npx -y tiny@1 --acp", npx("tiny@1", "tiny", None, "--acp")),
        ("npx --yes @a/b@latest x y", npx("@a/b@latest", "@a/b", None, "x", "y")),
        ("npx -y -- @a/b -y", npx("@a/b", "@a/b", None, "-y")),
        ("npx --package=@a/b@^1.2 -y run --acp", npx("@a/b@^1.2", "@a/b", "run", "--acp")),
        ("npx -p b -- run", npx("b", "b", "run")),
    ],
)
def test_commands_that_go_through_npx(command: str, parsed: NpxCommand) -> None:
    assert parse_npx(command.split()) == parsed
    path = parse_npx(["/usr/bin/npx", *command.split()[1:]])
    assert path is not None
    assert path.npx == "/usr/bin/npx"


@pytest.mark.parametrize(
    "command",
    [
        "npm exec tiny",
        "npx",
        "npx -y",
        "npx --package b",
        "npx -c whoami",
        "npx -p a -p b run",
        "npx --registry=http://x tiny",
        "npx ./folder",
        "npx file:tiny.tgz",
        "npx github:a/b",
        "npx https://x/y.tgz",
        "npx a@file:../b",
        "npx a@npm:b@1",
    ],
)
def test_commands_that_do_something_else_are_run_as_they_are(command: str) -> None:
    assert parse_npx(command.split()) is None


@pytest.mark.parametrize(
    ("programs", "command", "chosen"),
    [
        ("run.js", "npx @a/b", "b"),
        ({"x": "run.js", "y": "run.js"}, "npx @a/b", "x"),
        ({"x": "x.js", "b": "b.js"}, "npx @a/b", "b"),
        ({"x": "x.js", "y": "y.js"}, "npx @a/b", None),
        ({"x": "x.js", "y": "y.js"}, "npx -p @a/b y", "y"),
        ({}, "npx @a/b", None),
    ],
)
def test_of_several_programs_the_one_is_taken_that_npx_would_take(
    tmp_path: Path, programs: object, command: str, chosen: str | None
) -> None:
    parsed = parse_npx(command.split())
    assert parsed is not None
    bin_ = install(tmp_path / "npx" / "node_modules" / ".bin", "b", "x", "y")
    description = bin_.parent / "@a" / "b" / "package.json"
    description.parent.mkdir(parents=True)
    description.write_text(json.dumps({"name": "@a/b", "bin": programs}))
    found = _find_program(f"/usr/bin:{bin_}:{install(tmp_path / 'other', 'b')}", parsed)
    assert found == (bin_ / chosen if chosen else None)
    assert _find_program("/usr/bin:", parsed) is None
