"""The official SDKs' clients, unchanged, over a WebSocket to ``/acp``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from acp.ws import create_websocket_stream

from relaykit.relay import Relay
from support.gateways import SECONDS, address_of, gateway_settings, open_gateway_relay
from support.real_agents import installed
from support.sdk_client import SdkClient, begin, converse, say
from support.servers import relay as relay_program

# Neither uvicorn nor the Python SDK runs on trio.
BACKENDS = [("asyncio", {"use_uvloop": True})]
SAID = ["grüße 🙂", "a text, [resource_link][image]", "permission: yes", "woken"]
TOLD = ["grüße 🙂", "a text, ", "resource_link", "image", "/ask", "/sleep 600"]
SCRIPT = Path(__file__).with_name("typescript_client") / "client.mjs"


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def place_of(relay: Relay) -> tuple[str, str]:
    """Return the URL of ``/acp``, and the token."""
    url, token = address_of(relay)
    return url.replace("http", "ws", 1).rstrip("/") + "/acp", token


@pytest.mark.anyio
async def test_the_python_sdk(tmp_path: Path) -> None:
    async with open_gateway_relay(gateway_settings(tmp_path)) as relay:
        url, token = place_of(relay)
        headers = {"Authorization": f"Bearer {token}"}
        first, second, third = SdkClient(), SdkClient(), SdkClient()
        with anyio.fail_after(SECONDS):
            async with first.connected(await create_websocket_stream(url, headers=headers)) as agent:
                profile = await begin(agent)
                assert profile.agent_info is not None
                assert profile.agent_info.name == "relaykit-echo"
                assert profile.agent_capabilities is not None
                assert profile.agent_capabilities.load_session
                session, ends = await converse(agent, str(tmp_path))
                assert session.modes is not None
                assert session.modes.current_mode_id == "echo"
                assert ends == ["end_turn", "end_turn", "end_turn", "cancelled"]
                assert (first.said(), first.asked, first.was_told()) == (SAID, ["Say it"], [])

            async with second.connected(await create_websocket_stream(url, headers=headers)) as agent:
                await begin(agent)
                loaded = await agent.load_session(cwd=str(tmp_path), session_id=session.session_id)
                assert loaded is not None
                assert loaded.modes is not None
                assert loaded.modes.current_mode_id == "shout"
                assert (second.said(), second.asked) == (SAID, [])
                assert second.was_told() == TOLD

            async with third.connected(await create_websocket_stream(url, headers=headers)) as agent:
                await begin(agent)
                await agent.resume_session(cwd=str(tmp_path), session_id=session.session_id)
                assert third.updates == []
                assert (await say(agent, session.session_id, "still there?")).stop_reason == "end_turn"
                assert third.said() == ["still there?"]
                listed = await agent.list_sessions()
                assert [one.session_id for one in listed.sessions] == [session.session_id]
                await agent.close_session(session_id=session.session_id)
            await relay.wait_ended(session.session_id)


def test_the_typescript_sdk(tmp_path: Path) -> None:
    installed()
    with relay_program() as server:
        url = server.url.removesuffix("/ws") + "/acp"
        token = server.headers["Authorization"].removeprefix("Bearer ")
        command = ["node", str(SCRIPT), "websocket", url, token]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    first, second, third = connections(told)

    assert answers(first, "initialize")[0]["agentInfo"]["name"] == "relaykit-echo"
    assert answers(first, "session/new")[0]["modes"]["currentModeId"] == "echo"
    ends = [end["stopReason"] for end in answers(first, "session/prompt")]
    assert ends == ["end_turn", "end_turn", "end_turn", "cancelled"]
    assert texts(first, "agent_message_chunk") == SAID
    assert texts(first, "user_message_chunk") == []
    assert [asked["toolCall"]["title"] for asked in answers(first, "permission")] == ["Say it"]

    whats = [event["what"] for event in second]
    assert whats == [
        "initialize",
        *["update"] * (len(whats) - 2),
        "session/load",
    ]  # all comes before the answer
    assert texts(second, "agent_message_chunk") == SAID
    assert texts(second, "user_message_chunk") == TOLD
    assert answers(second, "session/load")[0]["modes"]["currentModeId"] == "shout"

    whats = [event["what"] for event in third]
    assert whats == [
        *("initialize", "session/resume", "update", "session/prompt", "session/list", "session/close", "done")
    ]
    assert texts(third, "agent_message_chunk") == ["still there?"]
    assert len(answers(third, "session/list")[0]["sessions"]) == 1


def connections(told: list[Any]) -> list[list[Any]]:
    """Cut what was told into the connections: each begins with ``initialize``."""
    starts = [number for number, event in enumerate(told) if event["what"] == "initialize"]
    return [told[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def answers(told: list[Any], what: str) -> list[Any]:
    """Return what was told under a name."""
    return [event["value"] for event in told if event["what"] == what]


def texts(told: list[Any], kind: str) -> list[str]:
    """Return the texts of the updates of a kind."""
    updates = [update["update"] for update in answers(told, "update")]
    return [
        update["content"].get("text", update["content"]["type"])
        for update in updates
        if update["sessionUpdate"] == kind
    ]
