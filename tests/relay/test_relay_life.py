"""The life of a session in a relay: from `create` to the end of its transcript."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Kind
from relaykit.errors import (
    CursorAhead,
    DuplicateRole,
    InvalidAgentId,
    SessionNotActive,
    SessionNotFound,
    UnknownAgent,
    UnknownProject,
)
from relaykit.session import Cause, SessionFilter, SessionState
from support.relays import (
    ECHO,
    active_session,
    echo_with,
    ended,
    following,
    nothing_is_left,
    processes_of,
    prompt,
    running_relay,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("workspace", ["in_place", "directory"])
async def test_a_full_life(tmp_path: Path, workspace: str) -> None:
    async with running_relay(tmp_path, workspace=workspace) as relay:
        session = await relay.create("auth")
        assert (session.agent_id, session.agent, session.owner, session.project) == (
            "auth",
            ECHO,
            "local",
            "default",
        )
        async with following(relay, session.id) as client:
            active = await client.until_notice("active")
            running = await relay.require(session.id)
            assert running.state is SessionState.ACTIVE
            assert running.worktree_dir == active["worktreeDir"]
            assert await anyio.Path(active["worktreeDir"]).is_dir()
            assert set(running.resources) == {workspace, "acp"}
            assert processes_of(session.id) == [running.resources["acp"]["pid"]]
            await client.say("hello", "t1")
            said = await client.until_said("hello")
            end = await client.until_turn_end("t1")
            assert json.loads(end.frame.body) == {"stopReason": "end_turn"}
            assert said.seq < end.seq
            await relay.stop(session.id, "done")
            assert await client.until_notice("terminating") == {"cause": "REQUESTED", "reason": "done"}
            assert await client.until_notice("ended") == {
                "cause": "REQUESTED",
                "reason": "done",
                "cleanup": [{"cleaner": "acp", "outcome": "DONE", "detail": ""}],
            }
            await client.until_the_end()
        assert client.told == [
            "NOTICE active",
            "PROMPT t1",
            "UPDATE session/update",
            "TURN_END t1",
            "NOTICE terminating",
            "NOTICE ended",
        ]
        assert [entry.seq for entry in client.entries] == [1, 2, 3, 4, 5, 6]
        await ended(relay, session.id)
        await nothing_is_left(relay, session)
        with pytest.raises(SessionNotFound):
            await relay.prompt(session.id, prompt("hello"), client_id="c1", turn="t2")


async def test_who_attaches_late_is_told_everything(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as first:
        await first.say("hello", "t1")
        await first.until_turn_end("t1")
        assert relay.clients(first.session_id) == 1
        async with following(relay, first.session_id, client_id="c2") as second:
            await second.until_turn_end("t1")
            assert second.entries == first.entries
            async with following(relay, first.session_id, client_id="c3", after=3) as third:
                assert relay.clients(first.session_id) == 3
                await third.until_turn_end("t1")
                assert third.entries == first.entries[3:]
        assert relay.clients(first.session_id) == 1
        head = first.entries[-1].seq
        with pytest.raises(CursorAhead):
            async with following(relay, first.session_id, after=head + 1):
                pytest.fail("it attached behind an entry that is not there")
        assert relay.clients(first.session_id) == 1


async def test_a_disconnect_ends_nothing(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        async with active_session(relay) as client:
            await client.say("/sleep 0.1", "t1")
        assert relay.clients(client.session_id) == 0
        async with following(relay, client.session_id, after=client.entries[-1].seq) as again:
            await again.until_turn_end("t1")
            await again.say("hello", "t2")
            await again.until_said("hello")
        both = [entry.seq for entry in (*client.entries, *again.entries)]
        assert both == list(range(1, len(both) + 1))


async def test_a_role_is_played_once_and_then_again(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        first = await relay.create("auth")
        with pytest.raises(DuplicateRole) as caught:
            await relay.create("auth")
        assert caught.value.session_id == first.id
        other = await relay.create("auth", owner="ann")
        await relay.stop(first.id, "done")
        await ended(relay, first.id)
        again = await relay.create("auth")
        assert again.id != first.id
        listed = {session.id for session in await relay.list(SessionFilter(agent_id="auth"))}
        assert listed == {other.id, again.id}


@pytest.mark.parametrize("agent_id", ["", "../etc", "a b", "-x", "x" * 65])
async def test_a_role_that_could_name_no_directory_is_refused(tmp_path: Path, agent_id: str) -> None:
    async with running_relay(tmp_path) as relay:
        with pytest.raises(InvalidAgentId):
            await relay.create(agent_id)
        assert list(await relay.list(SessionFilter())) == []


async def test_an_unknown_agent_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        with pytest.raises(UnknownAgent, match="did you mean 'echo'") as caught:
            await relay.create("auth", agent="ecko")
        assert "echo" in caught.value.known
        assert list(await relay.list(SessionFilter())) == []


async def test_of_several_agents_one_must_be_named(tmp_path: Path) -> None:
    toml = echo_with(name="one") + echo_with(name="two")
    async with running_relay(tmp_path, toml=toml) as relay:
        with pytest.raises(UnknownAgent, match="name an agent"):
            await relay.create("auth")
        assert (await relay.create("auth", agent="two")).agent == "two"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("", ECHO),
        (echo_with(name="mine"), "mine"),
        ('[relay]\ndefault_agent = "two"\n' + echo_with(name="one") + echo_with(name="two"), "two"),
    ],
    ids=["echo", "the only one", "the default one"],
)
async def test_the_agent_of_who_names_none(tmp_path: Path, toml: str, expected: str) -> None:
    async with running_relay(tmp_path, toml=toml) as relay:
        assert (await relay.create("auth")).agent == expected


async def test_an_unknown_project_is_refused(tmp_path: Path) -> None:
    toml = f'[projects.shop]\npath = "{tmp_path}"\n[projects.site]\npath = "{tmp_path}"\n'
    async with running_relay(tmp_path, toml=toml) as relay:
        with pytest.raises(UnknownProject, match="did you mean 'shop'"):
            await relay.create("auth", project="shap")
        with pytest.raises(UnknownProject, match="name a project"):
            await relay.create("auth")
        assert (await relay.create("auth", project="site")).project == "site"


async def test_what_is_unknown_says_so(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        assert await relay.get("nobody") is None
        assert relay.clients("nobody") == 0
        with anyio.fail_after(5):
            await relay.wait_ended("nobody")
        with pytest.raises(SessionNotFound):
            await relay.stop("nobody", "done")
        with pytest.raises(SessionNotFound):
            await relay.cancel("nobody")
        with pytest.raises(SessionNotFound):
            await relay.prompt("nobody", prompt("hello"), client_id="c1", turn="t1")
        with pytest.raises(SessionNotFound):
            await relay.answer("nobody", "q1", b"{}", client_id="c1")
        with pytest.raises(SessionNotFound):
            async with following(relay, "nobody"):
                pytest.fail("it attached to nothing")


async def test_a_session_takes_no_prompt_before_it_is_active(tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=echo_with("--delay", "30")) as relay:
        session = await relay.create("auth")
        with pytest.raises(SessionNotActive):
            await relay.prompt(session.id, prompt("hello"), client_id="c1", turn="t1")
        async with following(relay, session.id) as client:
            await relay.stop(session.id, "done")
            await client.until_the_end()
        assert Kind.PROMPT not in {entry.frame.kind for entry in client.entries}


async def test_two_relays_share_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        running_relay(tmp_path / "one") as one,
        running_relay(tmp_path / "two") as two,
        active_session(one) as first,
        active_session(two) as second,
    ):
        assert await two.get(first.session_id) is None
        with pytest.raises(SessionNotFound):
            two.live(first.session_id)
        await first.say("to the first", "t1")
        await first.until_turn_end("t1")
        await one.stop(first.session_id, "done")
        await first.until_the_end()
        await second.say("to the second", "t1")
        await second.until_said("to the second")
        assert second.entries[0].frame.body != first.entries[0].frame.body
        assert not [entry for entry in second.entries if b"first" in entry.frame.body]


async def test_reasons_and_causes_are_kept(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await relay.stop(client.session_id, "too long idle", cause=Cause.IDLE)
        await relay.stop(client.session_id, "another reason")  # the first one stays
        last = await client.until_notice("ended")
        assert (last["cause"], last["reason"]) == ("IDLE", "too long idle")
