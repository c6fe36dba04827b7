"""Calls: the requests of clients that are no prompts; and what is known of an agent because of them."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Entry, Frame, Kind
from relaykit.errors import Refused, SessionNotActive, SessionNotFound, UnknownAgent
from relaykit.hooks import hookimpl
from relaykit.hooks.events import ModeRequest
from support.relays import Client, active_session, echo_with, ended, running_relay

pytestmark = pytest.mark.anyio


class ModePolicy:
    """Refuses the mode ``shout``."""

    def __init__(self) -> None:
        self.asked: list[ModeRequest] = []

    @hookimpl
    async def relaykit_check_mode(self, request: ModeRequest) -> None:
        self.asked.append(request)
        if b"shout" in request.call.body:
            raise Refused("not so loud")


async def call(client: Client, method: str, params: dict[str, object], ref: str = "r1") -> None:
    """Put a call to the agent."""
    body = json.dumps(params).encode()
    await client.relay.call(client.session_id, method, body, client_id=client.id, ref=ref)


async def result_of(client: Client, ref: str = "r1") -> Frame:
    """Wait for the answer to a call."""

    def answers(entry: Entry) -> bool:
        return entry.frame.kind is Kind.RESULT and entry.frame.ref == ref

    return (await client.until(answers)).frame


async def set_mode(client: Client, mode: str, ref: str = "r1") -> Frame:
    await call(client, "session/set_mode", {"modeId": mode}, ref)
    return await result_of(client, ref)


async def test_a_change_of_mode_is_seen_by_all_who_ask_later(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        live = relay.live(client.session_id)
        assert live.opened["modes"]["currentModeId"] == "echo"
        answer = await set_mode(client, "shout")
        assert (answer.method, answer.failed) == ("session/set_mode", False)
        assert live.opened["modes"]["currentModeId"] == "shout"
        assert client.told[-3:] == [
            "CALL session/set_mode",
            "UPDATE session/update",
            "RESULT session/set_mode",
        ]


async def test_what_the_agent_refuses_changes_nothing(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        answer = await set_mode(client, "whisper")
        assert answer.failed
        assert json.loads(answer.body)["code"] == -32602
        assert relay.live(client.session_id).opened["modes"]["currentModeId"] == "echo"


async def test_a_policy_hears_of_a_change_of_mode_first(tmp_path: Path) -> None:
    policy = ModePolicy()
    async with running_relay(tmp_path, plugins={"policy": policy}) as relay, active_session(relay) as client:
        with pytest.raises(Refused, match="not so loud"):
            await call(client, "session/set_mode", {"modeId": "shout"})
        assert not (await set_mode(client, "echo", "r2")).failed
        assert relay.live(client.session_id).opened["modes"]["currentModeId"] == "echo"
        assert [told for told in client.told if told.startswith("CALL")] == ["CALL session/set_mode"]
        await call(client, "_other", {}, "r3")
        await result_of(client, "r3")
    assert [request.call.ref for request in policy.asked] == ["r1", "r2"]
    assert policy.asked[0].client_id == client.id


async def test_what_the_agent_does_not_know_it_says_itself(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await call(client, "_vendor/thing", {"x": 1})
        answer = await result_of(client)
        assert answer.failed
        assert json.loads(answer.body)["code"] == -32601


async def test_a_call_runs_beside_a_turn_and_can_be_cancelled(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await call(client, "_echo/sleep", {"seconds": 600})
        await relay.cancel_call(client.session_id, "r1")
        answer = await result_of(client)
        assert json.loads(answer.body)["code"] == -32800
        await relay.cancel_call(client.session_id, "r1")  # too late: nothing happens
        await client.say("hello", "t1")
        assert not (await client.until_turn_end("t1")).frame.failed


async def test_a_body_that_is_no_object_is_answered_for_the_agent(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await relay.call(client.session_id, "_x", b"[1", client_id=client.id, ref="r1")
        answer = await result_of(client)
        assert json.loads(answer.body)["code"] == -32602
        await client.say("hello", "t1")
        assert not (await client.until_turn_end("t1")).frame.failed


async def test_a_call_ends_with_its_agent(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await call(client, "_echo/sleep", {"seconds": 600})
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        await ended(relay, client.session_id)
        with pytest.raises(SessionNotFound):
            await call(client, "_x", {}, "r2")


async def test_a_session_that_is_starting_takes_no_calls(tmp_path: Path) -> None:
    toml = echo_with("--delay", "600", name="slow")
    async with running_relay(tmp_path, toml=toml) as relay:
        session = await relay.create("auth", agent="slow")
        with pytest.raises(SessionNotActive):
            await relay.call(session.id, "_x", b"{}", client_id="c1", ref="r1")
        assert relay.live(session.id).opened == {}


# ---------------------------------------------------------------- waiting prompts


async def test_a_prompt_that_waits_can_be_taken_back(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await client.say("second", "t2")
        await client.say("third", "t3")
        live = relay.live(client.session_id)
        assert live.withdraw("t2")
        assert not live.withdraw("t2")
        assert not live.withdraw("t1")  # it runs: it can be cancelled
        await client.answer(asked.frame.ref)
        await client.until_turn_end("t3")
        assert [told for told in client.told if told.startswith("PROMPT")] == ["PROMPT t1", "PROMPT t3"]


# ---------------------------------------------------------------- logging in


async def test_an_agent_that_wants_a_login_says_so_until_a_prompt_works(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        live = relay.live(client.session_id)
        needed = [live.needs_login]
        for turn, text in (("t1", "/login"), ("t2", "hello")):
            await client.say(text, turn)
            assert (await client.until_turn_end(turn)).frame.failed == (text == "/login")
            needed.append(live.needs_login)
        assert needed == [False, True, False]


# ---------------------------------------------------------------- what agents are


async def test_a_profile_is_what_the_agent_says_of_itself(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        with anyio.fail_after(20):
            profile = await relay.profile()
        assert profile["agentInfo"]["name"] == "relaykit-echo"
        with pytest.raises(UnknownAgent):
            await relay.profile("nobody")
