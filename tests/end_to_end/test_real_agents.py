"""Agents of three other makers behind the relay: turns, tools, permissions, cancelling, and a clean end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relaykit.conversation import Entry, Kind
from relaykit.relay import Relay
from support.model_stub import ModelStub
from support.real_agents import NAMES, agent_toml, installed
from support.relays import Client, ended, following, nothing_is_left, running_relay

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

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
