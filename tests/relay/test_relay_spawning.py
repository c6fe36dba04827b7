"""Agents that do not start: each way says what to do, and leaves nothing but a free role."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from relaykit.relay import Relay
from support.relays import (
    PATIENCE,
    active_session,
    echo_with,
    ended,
    following,
    nothing_is_left,
    processes_of,
    running_relay,
)

pytestmark = pytest.mark.anyio


async def check_failure(relay: Relay, *words: str) -> None:
    """Create a session, and check that it ends because its agent did not start, and that the reason has these words."""
    session = await relay.create("auth", agent="flagged")
    async with following(relay, session.id) as client:
        last = await client.until_notice("ended")
        await client.until_the_end()
    assert client.told == ["NOTICE terminating", "NOTICE ended"]
    assert last["cause"] == "SPAWN_FAILED"
    for word in words:
        assert word in last["reason"]
    await ended(relay, session.id)
    await nothing_is_left(relay, session)
    async with active_session(relay, "auth", agent="echo") as again:  # the role is free
        await again.say("hello", "t1")
        await again.until_turn_end("t1")


async def test_the_program_is_missing(tmp_path: Path) -> None:
    async with running_relay(
        tmp_path, toml='[agents.flagged]\ncommand = ["no-such-program-anywhere"]\n'
    ) as relay:
        await check_failure(relay, "'no-such-program-anywhere' was not found", "correct `command`")


async def test_it_exits_at_once(tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=echo_with("--exit", "7")) as relay:
        await check_failure(relay, "exited with 7 before it was ready", "echo: told to exit")


async def test_it_never_answers(tmp_path: Path) -> None:
    async with running_relay(
        tmp_path, toml=echo_with("--no-initialize"), PLUGINS__ACP__INITIALIZE_TIMEOUT="1"
    ) as relay:
        session = await relay.create("auth", agent="flagged")
        async with following(relay, session.id) as client:
            last = await client.until_notice("ended")
            await client.until_the_end()
        assert last["cause"] == "SPAWN_FAILED"
        assert "no answer to 'initialize' within 1 s" in last["reason"]
        assert "does its command speak ACP" in last["reason"]
        await ended(relay, session.id)
        await nothing_is_left(relay, session)


async def test_it_wants_a_login(tmp_path: Path) -> None:
    toml = echo_with("--login-required") + 'login = "flagged login"\n'
    async with running_relay(tmp_path, toml=toml) as relay:
        await check_failure(relay, "login needed", "run `flagged login`")


async def test_it_refuses_a_session(tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=echo_with("--refuse")) as relay:
        await check_failure(relay, "no session today")


async def test_it_speaks_another_version(tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=echo_with("--version", "99")) as relay:
        await check_failure(relay, "99")


async def test_its_directory_is_missing(tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=f'[projects.gone]\npath = "{tmp_path / "gone"}"\n') as relay:
        session = await relay.create("auth")
        async with following(relay, session.id) as client:
            last = await client.until_notice("ended")
        assert last["cause"] == "SPAWN_FAILED"
        assert f"{tmp_path / 'gone'}" in last["reason"]
        await ended(relay, session.id)
        await nothing_is_left(relay, session)


async def test_it_is_not_in_a_repository(tmp_path: Path) -> None:
    async with running_relay(tmp_path, workspace="worktree") as relay:
        session = await relay.create("auth")
        async with following(relay, session.id) as client:
            last = await client.until_notice("ended")
        assert last["cause"] == "SPAWN_FAILED"
        assert 'workspace = "directory"' in last["reason"]
        await ended(relay, session.id)
        await nothing_is_left(relay, session)


async def until_it_runs(relay: Relay, session_id: str) -> None:
    with anyio.fail_after(PATIENCE):
        # Nothing tells of what a launcher records.
        while "pid" not in (await relay.require(session_id)).resources.get("acp", {}):  # noqa: ASYNC110 -- as above
            await anyio.sleep(0.01)
        while not processes_of(session_id):  # noqa: ASYNC110 -- amid its `exec` a process has no environment to show
            await anyio.sleep(0.01)


async def test_a_stop_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    async with running_relay(
        tmp_path, toml=echo_with("--delay", "600"), PLUGINS__ACP__EOF_GRACE="0.2"
    ) as relay:
        session = await relay.create("auth")
        async with following(relay, session.id) as client:
            await until_it_runs(relay, session.id)
            assert len(processes_of(session.id)) == 1
            await relay.stop(session.id, "changed my mind")
            last = await client.until_notice("ended")
            await client.until_the_end()
        assert (last["cause"], last["reason"]) == ("REQUESTED", "changed my mind")
        assert client.told == ["NOTICE terminating", "NOTICE ended"]
        await ended(relay, session.id)
        await nothing_is_left(relay, session)


async def test_a_stop_before_anything_was_started(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        for number in range(5):  # at once, and a little later each time
            session = await relay.create("auth")
            for _ in range(number):
                await anyio.lowlevel.checkpoint()
            await relay.stop(session.id, "changed my mind")
            await ended(relay, session.id)
            await nothing_is_left(relay, session)
