"""Agents of three other makers behind the relay: turns, tools, permissions, cancelling, and a clean end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from acp.client.connection import ClientSideConnection
from acp.ws import create_websocket_stream

from relaykit.conversation import Entry, Kind
from relaykit.relay import Relay
from support.gateways import address_of, gateway_settings, open_gateway_relay
from support.model_stub import ModelStub
from support.real_agents import NAMES, agent_toml, installed
from support.relays import Client, ended, following, nothing_is_left, running_relay
from support.sdk_client import SdkClient, begin, say

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240)]

PATIENCE = 60.0
"""Seconds in which the slowest of them does what is asked, on a busy machine."""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    installed()
    agent: str = request.param
    return agent


@asynccontextmanager
async def talking(directory: Path, name: str) -> AsyncIterator[tuple[Relay, Client]]:
    """Hold a session with an agent, and check at the end that nothing of it is left."""
    with ModelStub() as model:
        toml = agent_toml(name, directory / "home", model.url)
        async with running_relay(
            directory, toml=toml, PLUGINS__ACP__INITIALIZE_TIMEOUT=str(PATIENCE)
        ) as relay:
            session = await relay.create("auth", agent=name)
            async with following(relay, session.id) as client:
                client.patience = PATIENCE
                await client.until_notice("active")
                yield relay, client
                await relay.stop(session.id, "done")
                await client.until_the_end()
            await ended(relay, session.id)
            await nothing_is_left(relay, session)


def updates(client: Client, kind: str) -> list[dict[str, object]]:
    """Return the updates of one kind that were shown."""
    bodies = [json.loads(e.frame.body) for e in client.entries if e.frame.method == "session/update"]
    return [body["update"] for body in bodies if body["update"]["sessionUpdate"] == kind]


def said(client: Client) -> str:
    """Return what the agent said, without what it says by the way."""
    chunks = [update["content"] for update in updates(client, "agent_message_chunk")]
    return "".join(chunk["text"] for chunk in chunks if isinstance(chunk, dict))


async def stop_reason(client: Client, turn: str) -> str:
    """Wait for the end of a turn, and return why it ended."""
    reason: str = json.loads((await client.until_turn_end(turn)).frame.body)["stopReason"]
    return reason


def option_of(asked: Entry, kind: str) -> str:
    """Return the id of the first option of a kind."""
    options = json.loads(asked.frame.body)["options"]
    return next(str(option["optionId"]) for option in options if option["kind"] == kind)


async def test_turns_tools_permissions_and_a_cancel(tmp_path: Path, name: str) -> None:
    """One long talk, because these programs take seconds to start."""
    proof = tmp_path / "project" / "proof.txt"
    async with talking(tmp_path, name) as (relay, client):
        await client.say("hello", "t1")
        assert await stop_reason(client, "t1") == "end_turn"
        assert "you said: hello" in said(client)

        await client.say("run: echo refused >proof.txt", "t2")
        asked = await client.until_asked()
        await client.answer(asked.frame.ref, option_of(asked, "reject_once"))
        await client.until_turn_end("t2")
        assert not proof.exists()

        await client.say("run: echo made >proof.txt && echo it is done", "t3")
        asked = await client.until_asked(2)
        assert not proof.exists()
        await client.answer(asked.frame.ref, option_of(asked, "allow_once"))
        assert await stop_reason(client, "t3") == "end_turn"
        assert proof.read_text() == "made\n"
        assert updates(client, "tool_call_update")[-1]["status"] == "completed"
        assert "it is done" in said(client)

        await client.say("wait", "t4")
        await client.until_said('"waiting"')
        await relay.cancel(client.session_id)
        assert await stop_reason(client, "t4") == "cancelled"

        await client.say("run: echo cancelled >proof.txt", "t5")
        asked = await client.until_asked(3)
        await relay.cancel(client.session_id)
        await client.until_turn_end("t5")
        decided = [entry for entry in client.entries if entry.frame.kind is Kind.DECISION][-1]
        assert decided.frame.ref == asked.frame.ref
        assert json.loads(decided.frame.body) == {"outcome": {"outcome": "cancelled"}}
        assert proof.read_text() == "made\n"


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])  # as uvicorn and the SDK need
async def test_the_python_sdk_talks_to_it_through_acp(tmp_path: Path, name: str) -> None:
    """A client and an agent of two other makers, and nothing between them but the relay."""
    with ModelStub() as model:
        toml = agent_toml(name, tmp_path / "home", model.url)
        acp_settings = f"[plugins.acp]\ninitialize_timeout = {PATIENCE}\n"
        async with open_gateway_relay(gateway_settings(tmp_path, agents=toml + acp_settings)) as relay:
            url, token = address_of(relay)
            address = f"{url.replace('http', 'ws', 1).rstrip('/')}/acp?agent={name}"
            bearer = {"Authorization": f"Bearer {token}"}
            first, second = SdkClient(), SdkClient()
            with anyio.fail_after(2 * PATIENCE):
                async with first.connected(await create_websocket_stream(address, headers=bearer)) as agent:
                    profile = await begin(agent)
                    assert profile.agent_info is not None
                    assert "relaykit" not in profile.agent_info.name
                    opened = await agent.new_session(cwd="/elsewhere", mcp_servers=[])
                    session = await relay.require(opened.session_id)
                    assert (await say(agent, session.id, "hello")).stop_reason == "end_turn"
                    command = "run: echo made >proof.txt && echo it is done"
                    assert (await say(agent, session.id, command)).stop_reason == "end_turn"
                    assert len(first.asked) == 1
                    assert (tmp_path / "proof.txt").read_text() == "made\n"
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(cancel_once_it_waits, agent, first, session.id)
                        assert (await say(agent, session.id, "wait")).stop_reason == "cancelled"

                async with second.connected(await create_websocket_stream(address, headers=bearer)) as agent:
                    await begin(agent)
                    await agent.load_session(cwd="/elsewhere", session_id=session.id)
                    assert second.said()[: len(first.said())] == first.said()
                    assert second.was_told() == ["hello", command, "wait"]
                    assert second.asked == []
                    await agent.close_session(session_id=session.id)
                await relay.wait_ended(session.id)
            await nothing_is_left(relay, session)


async def cancel_once_it_waits(agent: ClientSideConnection, client: SdkClient, session_id: str) -> None:
    """Cancel the turn when the model has gone silent."""
    await client.until_said("waiting")
    await agent.cancel(session_id=session_id)
