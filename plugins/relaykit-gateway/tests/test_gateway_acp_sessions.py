"""Sessions over /acp: created, prompted, loaded, resumed, listed, closed; on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relaykit_gateway.gateway import Gateway
from support.acp_sockets import acp_socket, gateway_of
from support.gateways import gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway_relay(gateway_settings(tmp_path), serve=False) as relay:
        yield gateway_of(relay)


async def test_a_whole_session(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        result = await socket.told(session_id, "hello")
        assert result["stopReason"] == "end_turn"
        assert socket.chunks == ["agent: hello"]
        prompt = socket.prompt(session_id, "/ask")
        question = await socket.skip_to("session/request_permission")
        socket.permit(question["id"], "no")
        await socket.result_of(prompt)
        assert socket.chunks[-1] == "agent: permission: no"
        prompt = socket.prompt(session_id, "/sleep 600")
        socket.notify("session/cancel", sessionId=session_id)
        assert (await socket.result_of(prompt))["stopReason"] == "cancelled"
    async with acp_socket(gateway) as socket:
        await socket.open("load", session_id)
        assert socket.chunks == [
            "user: hello",
            "agent: hello",
            "user: /ask",
            "agent: permission: no",
            "user: /sleep 600",
            "agent: woken",
        ]
        await socket.open("resume", session_id)
        assert len(socket.chunks) == 6
        await socket.told(session_id, "again")
        assert socket.chunks[6:] == ["agent: again"]
