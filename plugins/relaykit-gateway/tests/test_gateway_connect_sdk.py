"""`relaykit connect` as the agent of the official Python SDK's stdio client, with nothing that knows relaykit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import anyio
import pytest
from acp import PROTOCOL_VERSION, Agent, Client, RequestError, spawn_agent_process, text_block
from acp.schema import (
    AllowedOutcome,
    ClientCapabilities,
    DeniedOutcome,
    PermissionOption,
    RequestPermissionResponse,
)

from support.connecting import COMMAND, SECONDS
from support.servers import Server, relay

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]  # the SDK knows no other


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with relay() as running:
        yield running


class Editor:
    """The client's side of the SDK: what an editor implements."""

    _agent: Agent

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.cancels = False
        """What it is asked, it answers by cancelling the turn."""

    def on_connect(self, conn: Agent) -> None:
        self._agent = conn

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        assert session_id
        self.said.append((update.session_update, getattr(update.content, "text", "")))

    async def request_permission(
        self, session_id: str, tool_call: Any, options: list[PermissionOption], **_: Any
    ) -> RequestPermissionResponse:
        assert tool_call.title == "Say it"
        if self.cancels:
            await self._agent.cancel(session_id=session_id)
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        chosen = AllowedOutcome(outcome="selected", option_id=options[0].option_id)
        return RequestPermissionResponse(outcome=chosen)


def spawned(editor: Editor, server: Server) -> Any:
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAYKIT_")},
        "RELAYKIT_TOKEN": server.headers["Authorization"].removeprefix("Bearer "),
    }
    url = server.url.removesuffix("/ws")
    return spawn_agent_process(cast(Client, editor), *COMMAND, url, env=variables)


async def test_a_conversation(server: Server) -> None:
    editor = Editor()
    with anyio.fail_after(2 * SECONDS):
        async with spawned(editor, server) as (agent, process):
            hello = await agent.initialize(PROTOCOL_VERSION, client_capabilities=ClientCapabilities())
            assert hello.protocol_version == PROTOCOL_VERSION
            assert hello.agent_capabilities.load_session
            session = await agent.new_session(cwd="/", mcp_servers=[])
            answer = await agent.prompt(session_id=session.session_id, prompt=[text_block("grüße 🙂")])
            assert answer.stop_reason == "end_turn"
            await agent.prompt(session_id=session.session_id, prompt=[text_block("/ask")])
            assert editor.said == [
                ("agent_message_chunk", "grüße 🙂"),
                ("agent_message_chunk", "permission: yes"),
            ]
            editor.cancels = True
            answer = await agent.prompt(session_id=session.session_id, prompt=[text_block("/ask")])
            assert answer.stop_reason == "cancelled"
        assert process.returncode == 0

    again = Editor()
    with anyio.fail_after(2 * SECONDS):
        async with spawned(again, server) as (agent, process):
            await agent.initialize(PROTOCOL_VERSION)
            await agent.load_session(cwd="/", session_id=session.session_id, mcp_servers=[])
            assert again.said == [
                ("user_message_chunk", "grüße 🙂"),
                ("agent_message_chunk", "grüße 🙂"),
                ("user_message_chunk", "/ask"),
                ("agent_message_chunk", "permission: yes"),
                ("user_message_chunk", "/ask"),
                ("agent_message_chunk", "permission: cancelled"),
            ]
            with pytest.raises(RequestError):
                await agent.load_session(cwd="/", session_id="nobody", mcp_servers=[])
            listed = await agent.list_sessions()
            assert session.session_id in {each.session_id for each in listed.sessions}
            await agent.close_session(session_id=session.session_id)
        assert process.returncode == 0
