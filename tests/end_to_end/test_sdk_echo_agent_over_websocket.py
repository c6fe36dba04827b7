"""The SDK's echo agent behind `relaykit serve`: a program of its own, and a client on a real WebSocket."""

from __future__ import annotations

import sys
from pathlib import Path

import support
from support.servers import relay
from support.talk import Talker

COMMAND = [sys.executable, str(Path(support.__path__[0]) / "sdk_echo_agent.py")]


def test_a_turn_and_a_permission() -> None:
    with relay(agents={"sdk": COMMAND}) as server, Talker(server) as talker, Talker(server) as other:
        session = talker.create("sdk", agent="sdk")
        answer = talker.prompt(session, "grüße 🙂")
        assert (answer["content"], answer["stopReason"]) == ("grüße 🙂", "end_turn")

        other.say("session:attach", sessionId=session)
        assert other.wait_for("session:attached")["state"] == "ACTIVE"
        update = other.wait_for("agent:update")
        while update["update"]["sessionUpdate"] != "agent_message_chunk":
            update = other.wait_for("agent:update")
        assert update["update"]["_meta"] == {"echo": True}  # what the relay does not know goes through

        talker.say("agent:message", sessionId=session, content="may I?")
        asked = other.wait_for("permission:request")
        other.say("permission:response", sessionId=session, requestId=asked["requestId"], optionId="yes")
        assert talker.wait_for("permission:resolved")["optionId"] == "yes"
        assert "decided: yes" in talker.wait_for("agent:response")["content"]
        talker.stop(session)
        assert other.wait_for("session:terminated")["sessionId"] == session
