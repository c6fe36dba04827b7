"""An agent that is not ours, made with the ACP Python SDK, behind the relay."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import support
from relaykit.conversation import Kind
from support.relays import active_session, ended, following, nothing_is_left, prompt, running_relay

pytestmark = pytest.mark.anyio

PROGRAM = Path(support.__path__[0]) / "sdk_echo_agent.py"
TOML = f"[agents.sdk]\ncommand = {json.dumps([sys.executable, str(PROGRAM)])}\n"


async def test_a_full_turn(tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=TOML) as relay, active_session(relay, agent="sdk") as client:
        session = await relay.require(client.session_id)
        blocks = [{"type": "text", "text": "grüße 🙂"}, {"type": "text", "text": "and again"}]
        body = json.dumps({"prompt": blocks}).encode()
        await relay.prompt(client.session_id, body, client_id="c1", turn="t1")
        end = await client.until_turn_end("t1")
        assert json.loads(end.frame.body) == {"stopReason": "end_turn"}
        updates = [
            json.loads(entry.frame.body)["update"]
            for entry in client.entries
            if entry.frame.kind is Kind.UPDATE
        ]
        assert updates == [
            {
                "sessionUpdate": "agent_message_chunk",
                "content": {"type": "text", "text": text},
                "_meta": {"echo": True},
            }
            for text in ("grüße 🙂", "and again")
        ]
        await relay.stop(client.session_id, "done")
        await client.until_the_end()
        assert client.told == [
            "NOTICE active",
            "PROMPT t1",
            "UPDATE session/update",
            "UPDATE session/update",
            "TURN_END t1",
            "NOTICE terminating",
            "NOTICE ended",
        ]
        await ended(relay, session.id)
        await nothing_is_left(relay, session)


async def test_a_permission_is_asked_and_given(tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path, toml=TOML) as relay,
        active_session(relay, agent="sdk") as first,
        following(relay, first.session_id, client_id="c2") as second,
    ):
        await relay.prompt(first.session_id, prompt("may I?"), client_id="c1", turn="t1")
        asked = await second.until_asked()
        assert [option["optionId"] for option in json.loads(asked.frame.body)["options"]] == ["yes", "no"]
        await second.answer(asked.frame.ref, "yes")
        await first.until_said("decided: yes")
        await first.until_turn_end("t1")


async def test_a_permission_is_asked_and_the_turn_cancelled(tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=TOML) as relay, active_session(relay, agent="sdk") as client:
        await client.say("may I?", "t1")
        await client.until_asked()
        await relay.cancel(client.session_id)
        await client.until_said("decided: cancelled")
        await client.until_turn_end("t1")
        await client.say("hello", "t2")
        await client.until_said("hello")
