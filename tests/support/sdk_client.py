"""A conversation through the official Python SDK's client, with the echo agent at the other end."""

from __future__ import annotations

from typing import Any, cast

import acp
import anyio
from acp.client.connection import ClientSideConnection
from acp.schema import (
    AllowedOutcome,
    Implementation,
    NewSessionResponse,
    PermissionOption,
    PromptResponse,
    RequestPermissionResponse,
)


class SdkClient:
    """What of `acp.Client` a client without files and terminals is asked for. It permits everything once.

    :ivar updates: the session updates, in the order in which the SDK handed them over.
    :ivar asked: the titles of the tool calls that permission was asked for.
    """

    def __init__(self) -> None:
        self.updates: list[Any] = []
        self.asked: list[str] = []
        self._changed = anyio.Event()

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        """Take an update."""
        assert session_id
        self.updates.append(update)
        self._changed.set()
        self._changed = anyio.Event()

    async def ext_notification(self, method: str, params: dict[str, Any]) -> None:
        """Take what is no part of the protocol."""
        assert method.startswith("_")
        assert isinstance(params, dict)

    async def request_permission(
        self, session_id: str, tool_call: Any, options: list[PermissionOption], **_: Any
    ) -> RequestPermissionResponse:
        """Permit it, once."""
        assert session_id
        self.asked.append(tool_call.title)
        allowed = next(option.option_id for option in options if option.kind == "allow_once")
        return RequestPermissionResponse(outcome=AllowedOutcome(option_id=allowed, outcome="selected"))

    def connected(self, transport: Any, reader: Any = None) -> ClientSideConnection:
        """Return the SDK's connection over one of its transports, or over a stream writer and reader."""
        return acp.connect_to_agent(cast(acp.Client, self), transport, reader)

    def said(self) -> list[str]:
        """Return the texts of the agent's message chunks."""
        chunks = [update for update in self.updates if update.session_update == "agent_message_chunk"]
        return [chunk.content.text for chunk in chunks]

    async def until_said(self, text: str) -> None:
        """Wait until the agent has said just this, in one chunk. The caller sets a deadline."""
        while text not in self.said():
            await self._changed.wait()

    def was_told(self) -> list[str]:
        """Return the blocks of the prompts that were shown as another's: texts, or else their types."""
        chunks = [update for update in self.updates if update.session_update == "user_message_chunk"]
        return [getattr(chunk.content, "text", chunk.content.type) for chunk in chunks]


async def begin(agent: ClientSideConnection) -> acp.InitializeResponse:
    """Introduce the client."""
    info = Implementation(name="python-client", version="1.0.0")
    return await agent.initialize(protocol_version=acp.PROTOCOL_VERSION, client_info=info)


async def say(agent: ClientSideConnection, session_id: str, text: str) -> PromptResponse:
    """Prompt the agent."""
    return await agent.prompt(session_id=session_id, prompt=[acp.text_block(text)])


async def converse(agent: ClientSideConnection, cwd: str) -> tuple[NewSessionResponse, list[str]]:
    """Hold the conversation.

    :return: the answer to ``session/new``, and why each of the four turns ended.
    """
    session = await agent.new_session(cwd=cwd, mcp_servers=[])
    one = session.session_id
    blocks: list[Any] = [
        acp.text_block("a text, "),
        acp.resource_link_block("a.txt", "file:///a.txt"),
        acp.image_block("AAEC", "image/png"),
    ]
    ends = [
        await say(agent, one, "grüße 🙂"),
        await agent.prompt(session_id=one, prompt=blocks),
        await say(agent, one, "/ask"),
    ]
    await agent.set_session_mode(session_id=one, mode_id="shout")

    async def sleep() -> None:
        ends.append(await say(agent, one, "/sleep 600"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleep)
        await anyio.lowlevel.checkpoint()  # its first step puts the prompt in front of the cancel
        await agent.cancel(session_id=one)
    return session, [end.stop_reason for end in ends]
