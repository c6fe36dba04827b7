"""An echo agent made of the ACP Python SDK's public parts, as its own example is. Run as a program.

Says each block of a prompt back, marked by `_meta`; asked ``may I?``, it asks for a permission first.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 -- the SDK is made for asyncio, and this is a process of its own
from typing import Any, cast

from acp import (
    PROTOCOL_VERSION,
    Agent,
    Client,
    InitializeResponse,
    NewSessionResponse,
    PromptResponse,
    run_agent,
    text_block,
    update_agent_message,
    update_tool_call,
)
from acp.schema import AgentCapabilities, AllowedOutcome, PermissionOption


class EchoAgent:
    """What of `acp.Agent` an agent without any capability is asked for."""

    _client: Client

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        agreed = min(protocol_version, PROTOCOL_VERSION)
        return InitializeResponse(protocol_version=agreed, agent_capabilities=AgentCapabilities())

    async def new_session(self, cwd: str, **_: Any) -> NewSessionResponse:
        return NewSessionResponse(session_id=f"the only one, in {cwd}")

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> PromptResponse:
        for block in prompt:
            text = getattr(block, "text", "")
            if text == "may I?":
                text = await self._ask(session_id)
            update = update_agent_message(text_block(text))
            update.field_meta = {"echo": True}
            await self._client.session_update(session_id=session_id, update=update)
        return PromptResponse(stop_reason="end_turn")

    async def cancel(self, session_id: str, **_: Any) -> None:
        """Nothing that it does takes long enough."""

    async def _ask(self, session_id: str) -> str:
        options = [
            PermissionOption(option_id="yes", name="Yes", kind="allow_once"),
            PermissionOption(option_id="no", name="No", kind="reject_once"),
        ]
        call = update_tool_call("call-1", title="Say it", status="pending")
        answer = await self._client.request_permission(session_id=session_id, tool_call=call, options=options)
        outcome = answer.outcome
        return f"decided: {outcome.option_id if isinstance(outcome, AllowedOutcome) else 'cancelled'}"


if __name__ == "__main__":
    asyncio.run(run_agent(cast(Agent, EchoAgent())))
