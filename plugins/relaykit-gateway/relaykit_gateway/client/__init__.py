"""A client of a relay for scripts, on asyncio and trio: sessions, prompts to iterate over, questions by callback.

::

    async with connect("https://relay.example.com", token=token) as relay:
        session = await relay.create(role="auth", on_question=allow)
        async for said in session.prompt("What is this repository for?"):
            if isinstance(said, Update):
                print(said.text, end="")
        await session.close()

A connection that is lost is made again, and everything goes on where it was: what was missed is told, nothing is told
twice, and a prompt begins one turn. `relaykit_gateway.acp_client` is what this is built on, and shows everything.
"""

from __future__ import annotations

from relaykit_gateway.acp_client.events import AcpError, Gap, Json, Question, Update
from relaykit_gateway.address import ClientError
from relaykit_gateway.client.relay import RemoteRelay, connect
from relaykit_gateway.client.session import OnQuestion, RemoteSession, SessionOver, Turn

__all__ = [
    "AcpError",
    "ClientError",
    "Gap",
    "Json",
    "OnQuestion",
    "Question",
    "RemoteRelay",
    "RemoteSession",
    "SessionOver",
    "Turn",
    "Update",
    "connect",
]
