"""A client of the relay's ``/acp``, for asyncio and trio: what ``relaykit chat`` is built on.

::

    async with connect_acp(find_relay(settings)) as client:
        session = await client.new_session(role="auth")
        turn = await client.begin_prompt(session.session_id, "What is this repository for?")
        async for event in client:
            match event:
                case Update():
                    print(event.update)
                case Question():
                    await client.answer(event, event.params["options"][0]["optionId"])
                case TurnEnded() if event.turn == turn:
                    break
"""

from __future__ import annotations

from relaykit_gateway.acp_client.client import AcpClient, connect_acp
from relaykit_gateway.acp_client.events import (
    ELICITATION,
    PERMISSION,
    AcpError,
    AgentCrashed,
    Event,
    Gap,
    HistoryPage,
    Json,
    Notification,
    Past,
    Question,
    QuestionClosed,
    SessionAsleep,
    SessionAwake,
    SessionEnded,
    SessionOpened,
    TurnEnded,
    TurnStarted,
    Update,
    WakeFailed,
)

__all__ = [
    "ELICITATION",
    "PERMISSION",
    "AcpClient",
    "AcpError",
    "AgentCrashed",
    "Event",
    "Gap",
    "HistoryPage",
    "Json",
    "Notification",
    "Past",
    "Question",
    "QuestionClosed",
    "SessionAsleep",
    "SessionAwake",
    "SessionEnded",
    "SessionOpened",
    "TurnEnded",
    "TurnStarted",
    "Update",
    "WakeFailed",
    "connect_acp",
]
