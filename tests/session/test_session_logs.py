"""What the log says of a session's life."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from relaykit.ids import trace_id
from relaykit.session import Cause
from relaykit.session.logs import log_agent_ended, log_message_sent
from relaykit.testing import FakeClock, FakeConnection
from support.managers import make_manager

pytestmark = pytest.mark.anyio


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [
        (vars(record)["event"], vars(record)["facts"]) for record in caplog.records if "event" in vars(record)
    ]


async def test_a_life_is_five_events_with_their_facts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    async with make_manager(clock=clock) as manager:
        session = await manager.create("auth", FakeConnection())
        await manager.begin_spawn(session.id)
        await manager.attach_agent(session.id, "/work", FakeConnection())
        await manager.increment_message_count(session.id)
        await manager.increment_message_count(session.id)
        clock.advance(90.5)
        await manager.mark_terminating(session.id, "asked", cause=Cause.REQUESTED)
        await manager.complete_cleanup(session.id)
    who = {"sessionId": session.id, "agentId": "auth", "traceId": trace_id(session.id)}
    asked = {"cause": "REQUESTED", "reason": "asked"}
    assert events(caplog) == [
        (
            "session.created",
            {**who, "agent": session.agent, "project": session.project, "owner": session.owner},
        ),
        ("session.spawning", who),
        ("session.ready", who),
        ("session.terminating", {**who, **asked}),
        ("session.terminated", {**who, **asked, "duration": 90.5, "messageCount": 2}),
    ]
    assert (
        f"session {session.id} (auth): TERMINATING -> CLEANED (asked), after 90.500 s and 2 messages"
        in caplog.messages
    )


async def test_a_message_is_told_and_not_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with make_manager() as manager:
        session = await manager.create("auth", FakeConnection())
        caplog.clear()
        log_message_sent(session, turn="t1", client_id="c1")
        who = {"sessionId": session.id, "agentId": "auth", "traceId": trace_id(session.id)}
        assert events(caplog) == [("session.message_sent", {**who, "turn": "t1", "client": "c1"})]


async def test_an_agent_that_ended_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with make_manager() as manager:
        session = await manager.create("auth", FakeConnection())
        caplog.clear()
        log_agent_ended(session, reason="it exited with 3", crashed=True)
        who = {"sessionId": session.id, "agentId": "auth", "traceId": trace_id(session.id)}
        facts = {**who, "reason": "it exited with 3", "crashed": True}
        assert events(caplog) == [("session.agent_ended", facts)]


@pytest.mark.parametrize(
    ("session_id", "expected"),
    [
        ("0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319c"),
        ("s1", "e8bc163c82eee18733288c7d4ac636db"),
    ],
)
def test_the_trace_of_a_session_follows_from_its_id(session_id: str, expected: str) -> None:
    assert trace_id(session_id) == expected


@pytest.mark.parametrize("session_id", ["0" * 32, "\ud800", "", "0AF7651916CD43DD8448EB211C80319C"])
def test_a_trace_id_is_always_one(session_id: str) -> None:
    found = trace_id(session_id)
    assert len(found) == 32
    assert int(found, 16) > 0
    assert found == found.lower() == trace_id(session_id)
