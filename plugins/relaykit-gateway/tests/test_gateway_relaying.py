"""Following a session at the edges: gaps, journals that fail, long answers; on both event loops, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from pathlib import Path
from typing import Any

import pytest

from relaykit.conversation import Entry, Frame, Kind
from relaykit.errors import JournalError, RelaykitError
from relaykit.hooks import hookimpl
from relaykit.hooks.registration import MessageClient, MessageType
from relaykit.relay import Relay
from relaykit_gateway import answers
from relaykit_gateway.messages import BUILT_IN, MessageTable
from support.acp_sockets import gateway_of
from support.gateways import gateway_settings, open_gateway_relay
from support.ws_sockets import WsSocket, ws_socket

pytestmark = pytest.mark.anyio


def open_socket(relay: Relay, *, room: float = inf) -> AbstractAsyncContextManager[WsSocket]:
    """Connect to a gateway of the relay's own; see `ws_socket`."""
    return ws_socket(gateway_of(relay), room=room)


async def create(socket: WsSocket) -> str:
    socket.say("session:create", agentId="auth")
    created = await socket.expect("session:created")
    await socket.expect("session:ready")
    session_id: str = created["sessionId"]
    return session_id


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    async with open_gateway_relay(gateway_settings(tmp_path), serve=False) as relay:
        yield relay


async def test_a_whole_session_on_either_loop(relay: Relay) -> None:
    async with open_socket(relay) as socket:
        session_id = await create(socket)
        socket.say("agent:message", sessionId=session_id, content="/ask")
        request = await socket.skip_to("permission:request")
        option = request["options"][0]["optionId"]
        socket.say(
            "permission:response", sessionId=session_id, requestId=request["requestId"], optionId=option
        )
        assert option in (await socket.skip_to("agent:response"))["content"]
        socket.say("session:stop", sessionId=session_id)
        await socket.skip_to("session:terminated")


async def test_other_versions_are_sent_away(relay: Relay) -> None:
    async with open_socket(relay) as socket:
        socket.say("echo", version="1.1")
        await socket.expect("error")
        assert await socket.event() == {
            "type": "websocket.close",
            "code": 1002,
            "reason": "version mismatch",
        }


async def test_a_client_that_does_not_read_holds_nobody_up(relay: Relay) -> None:
    async with open_socket(relay) as socket:
        session_id = await create(socket)
        async with open_socket(relay, room=0) as deaf:
            deaf.say("session:attach", sessionId=session_id)
            await deaf.expect("session:attached")
            socket.say("agent:message", sessionId=session_id, content="/stream 3000")
            await socket.skip_to("agent:response")
            assert relay.clients(session_id) == 2
            heard = [(await deaf.hear()).get("seq", 0) for _ in range(100)]
            assert heard == sorted(heard)
        socket.say("agent:message", sessionId=session_id, content="fine")
        assert (await socket.skip_to("agent:response"))["content"] == "fine"


async def test_what_was_trimmed_is_said(relay: Relay) -> None:
    async with open_socket(relay) as socket:
        session_id = await create(socket)
        live = relay.live(session_id)
        # Enough to push everything out of memory, so that only the trimmed journal has it.
        filler = Frame(Kind.UPDATE, b'"%b"' % (b"x" * (5 * 1024 * 1024)), method="_filler")
        for _ in range(3):
            await live.conversation.publish([filler])
        await relay._transcripts.journal.trim(session_id, through=2)
        socket.say("session:attach", sessionId=session_id)
        await socket.skip_to("session:attached")
        gap = await socket.expect("session:gap")
        assert (gap["from"], gap["to"]) == (1, 2)
        assert (await socket.expect("agent:notification"))["seq"] == 3


async def test_a_journal_that_cannot_be_read_ends_the_following_alone(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_socket(relay) as socket:
        session_id = await create(socket)
        live = relay.live(session_id)
        filler = Frame(Kind.UPDATE, b'"%b"' % (b"x" * (9 * 1024 * 1024)), method="_filler")
        for _ in range(2):
            await live.conversation.publish([filler])
        for _ in range(2):
            await socket.expect("agent:notification")

        async def fail(*_: object, **__: object) -> Sequence[Entry]:
            raise JournalError("the disk is gone")

        with monkeypatch.context() as patched:
            patched.setattr(relay._transcripts.journal, "read", fail)
            socket.say("session:attach", sessionId=session_id)
            await socket.expect("session:attached")
            error = await socket.expect("error")
        assert error["error"]["code"] == "INTERNAL"
        assert error["sessionId"] == session_id
        assert "after 0" in error["error"]["message"]
        socket.say("session:attach", sessionId=session_id)
        await socket.expect("session:attached")
        assert (await socket.expect("session:ready"))["seq"] == 1


async def test_a_long_answer_is_cut_and_that_is_said(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_CHARACTERS", 1000)
    async with open_socket(relay) as socket:
        session_id = await create(socket)
        socket.say("agent:message", sessionId=session_id, content="/stream 300 10")
        response = await socket.skip_to("agent:response")
        assert response["contentTruncated"] is True
        assert 900 < len(response["content"]) <= 1000
        socket.say("agent:message", sessionId=session_id, content="short")
        assert "contentTruncated" not in await socket.skip_to("agent:response")


async def test_an_answer_of_several_pages_is_whole(relay: Relay) -> None:
    async with open_socket(relay) as socket:
        session_id = await create(socket)
        for count in (2000, 1, 600):
            socket.say("agent:message", sessionId=session_id, content=f"/stream {count} 5")
            texts = []
            while (message := await socket.hear())["type"] == "agent:update":
                texts.append(message["update"]["content"]["text"])
            assert message["content"] == "".join(texts)
            assert len(texts) >= count


async def test_a_session_whose_transcript_has_no_end(relay: Relay) -> None:
    async with open_socket(relay) as socket:
        session_id = await create(socket)
        await relay.live(session_id).conversation.aclose()
        terminated = await socket.expect("session:terminated")
        assert terminated["sessionId"] == session_id
        assert terminated["reason"]


class Messages:
    """A plugin with the message types that it is given."""

    def __init__(self, *types: MessageType) -> None:
        self._types = types

    @hookimpl
    def relaykit_register_messages(self) -> Sequence[MessageType]:
        return self._types


async def mirror(client: MessageClient, message: Mapping[str, Any]) -> None:
    await client.send({"type": "mirrored", "owner": client.owner, "got": message["type"]})


@pytest.mark.parametrize(
    ("types", "mirrored", "built_in"),
    [
        ([MessageType(name="mine", handle=mirror)], ["mine"], ["echo"]),
        ([MessageType(name="echo", handle=mirror, replaces=True)], ["echo"], ["session:list"]),
        ([MessageType(name="*", handle=mirror)], ["mine", "whatever"], ["echo", "session:list"]),
        ([MessageType(name="*", handle=mirror, replaces=True)], ["mine", "echo", "session:list"], []),
    ],
    ids=["new", "taken over", "what nobody knows", "everything"],
)
async def test_messages_of_plugins(
    tmp_path: Path, types: list[MessageType], mirrored: list[str], built_in: list[str]
) -> None:
    extra = {"messages": Messages(*types)}
    async with (
        open_gateway_relay(gateway_settings(tmp_path), serve=False, extra=extra) as relay,
        open_socket(relay) as socket,
    ):
        for type_ in mirrored:
            socket.say(type_)
            assert await socket.expect("mirrored") == {
                "version": "1.0",
                "type": "mirrored",
                "owner": "local",
                "got": type_,
            }
        for type_ in built_in:
            socket.say(type_)
            await socket.expect(type_)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_type_is_not_taken_over_by_mistake(name: str) -> None:
    with pytest.raises(RelaykitError, match="replaces=True"):
        MessageTable([MessageType(name=name, handle=mirror)])


def test_a_type_of_its_own_goes_before_everything() -> None:
    async def other(_client: MessageClient, _message: Mapping[str, Any]) -> None:
        """Do nothing."""

    table = MessageTable(
        [MessageType(name="mine", handle=other), MessageType(name="*", handle=mirror, replaces=True)]
    )
    assert table._handlers == {"mine": other}
    assert table._fallback is mirror
