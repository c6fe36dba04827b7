"""Who comes back, whenever that is, is told exactly what was missed; over /acp and /ws, on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Frame, Kind
from relaykit.relay import Relay
from relaykit.relay.rest import Presence
from relaykit_gateway.gateway import Gateway
from support.acp_sockets import AcpSocket, acp_socket, gateway_of
from support.durable import Gate, agent_tables, slow_to_start, slow_to_stop
from support.gateways import SECONDS, gateway_settings, open_gateway_relay
from support.relays import GIVEN, durable_storage
from support.sleepers import until_presence
from support.ws_sockets import WsSocket, ws_socket

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate.at(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
async def gateway(tmp_path: Path, gate: Gate) -> AsyncIterator[Gateway]:
    settings = gateway_settings(
        tmp_path,
        relay=f'storage = "{GIVEN}"\nidle_timeout = 0',
        agents=agent_tables(slow=slow_to_start(gate), lingering=slow_to_stop(gate))
        + f"\n[plugins.acp]\neof_grace = {SECONDS}",
    )
    async with open_gateway_relay(settings, serve=False, extra={GIVEN: durable_storage()}) as relay:
        yield gateway_of(relay)


@pytest.fixture
def relay(gateway: Gateway) -> Relay:
    return gateway.relay


async def session_with_a_turn(gateway: Gateway, *, agent: str = "echo") -> tuple[str, int, str]:
    """Return a session in which something was said, the seq of the end of that, and the epoch."""
    async with acp_socket(gateway) as socket:
        session_id = await socket.new(agent=agent)
        answer = await socket.told(session_id, "before")
    return (
        session_id,
        answer["_meta"]["relaykit"]["seq"],
        gateway.relay.live(session_id).conversation.epoch,
    )


def reopen(socket: AcpSocket, session_id: str, seq: int, epoch: str, how: str = "resume") -> int:
    place = {"relaykit": {"after": seq, "epoch": epoch}}
    return socket.ask(f"session/{how}", sessionId=session_id, cwd="/", mcpServers=[], _meta=place)


async def reattached(socket: WsSocket, session_id: str, seq: int, epoch: str) -> Json:
    socket.say("session:attach", sessionId=session_id, after=seq, epoch=epoch)
    return await socket.skip_to("session:attached")


def seqs(socket: AcpSocket) -> list[int]:
    """Return the seqs of what it was told, of each entry once."""
    told = [m["params"]["_meta"]["relaykit"]["seq"] for m in socket.heard if "method" in m]
    assert told == sorted(told)
    return sorted(set(told))


def ws_seqs(socket: WsSocket) -> list[int]:
    told = [m["seq"] for m in socket.heard if "seq" in m and m["type"] != "session:caught_up"]
    assert told == sorted(told)
    return sorted(set(told))


# ---------------------------------------------------------------- whatever goes on


async def test_during_a_turn_a_late_client_learns_of_it_and_hears_its_end(
    gateway: Gateway, relay: Relay
) -> None:
    session_id, seq, epoch = await session_with_a_turn(gateway)
    async with acp_socket(gateway) as one, acp_socket(gateway, aware=True) as acp, ws_socket(gateway) as ws:
        prompt = one.prompt(session_id, "/sleep 600", turn="")
        with anyio.fail_after(SECONDS):
            while not relay.live(session_id).turn:
                await anyio.lowlevel.checkpoint()
        turn = relay.live(session_id).turn
        result = await acp.result_of(reopen(acp, session_id, seq, epoch))
        assert result["_meta"]["relaykit"]["turnRunning"] == turn
        assert acp.chunks == ["user: /sleep 600"]
        attached = await reattached(ws, session_id, seq, epoch)
        assert attached["turnRunning"] is True
        assert (await ws.skip_to("session:caught_up"))["seq"] == attached["head"]
        one.notify("session/cancel", sessionId=session_id)
        assert (await one.result_of(prompt))["stopReason"] == "cancelled"
        ended = (await acp.skip_to("_relaykit/turn_ended"))["params"]
        assert (ended["turn"], ended["result"]["stopReason"]) == (turn, "cancelled")
        assert (await ws.skip_to("agent:response"))["stopReason"] == "cancelled"
        head = relay.live(session_id).conversation.head
        assert seqs(acp)[0] == ws_seqs(ws)[0] == seq + 1
        assert seqs(acp)[-1] == ws_seqs(ws)[-1] == head


async def test_during_a_question_it_is_put_to_who_comes_late(gateway: Gateway, relay: Relay) -> None:
    session_id, seq, epoch = await session_with_a_turn(gateway)
    async with acp_socket(gateway) as one, acp_socket(gateway, aware=True) as acp, ws_socket(gateway) as ws:
        prompt = one.prompt(session_id, "/ask")
        asked = await one.skip_to("session/request_permission")
        assert asked["params"]["_meta"]["relaykit"]["seq"] == seq + 2
        result = await acp.result_of(reopen(acp, session_id, seq, epoch))
        assert result["_meta"]["relaykit"]["turnRunning"] == relay.live(session_id).turn
        assert (await acp.skip_to("session/request_permission"))["id"] == asked["id"]
        await reattached(ws, session_id, seq, epoch)
        assert (await ws.skip_to("permission:request"))["requestId"] == asked["id"]
        await ws.skip_to("session:caught_up")
        acp.permit(asked["id"])
        assert (await one.result_of(prompt))["stopReason"] == "end_turn"
        assert (await ws.skip_to("permission:resolved"))["optionId"] == "yes"
        await ws.skip_to("agent:response")
        await acp.skip_to("_relaykit/turn_ended")
        head = relay.live(session_id).conversation.head
        decided = seq + 4  # who has answered is told with the answer, and its entry behind that is not shown
        assert ws_seqs(ws) == [told for told in range(seq + 1, head + 1) if told != decided]


async def test_while_it_is_spawned(gateway: Gateway, relay: Relay, gate: Gate) -> None:
    session = await relay.create("auth", agent="slow")
    async with acp_socket(gateway, aware=True) as acp, ws_socket(gateway) as ws:
        opening = acp.ask("session/load", sessionId=session.id, cwd="/", mcpServers=[])
        caught_up = await acp.skip_to("_relaykit/caught_up")  # the answer is still to come
        assert caught_up["params"]["_meta"]["relaykit"]["seq"] == 0
        attached = await reattached(ws, session.id, 0, relay.live(session.id).conversation.epoch)
        assert (attached["state"], attached["presence"], attached["head"]) == ("SPAWNING", "SPAWNING", 0)
        await ws.skip_to("session:caught_up")
        gate.open()
        await acp.result_of(opening)
        await ws.skip_to("session:ready")


async def test_while_it_is_ended(gateway: Gateway, relay: Relay, gate: Gate) -> None:
    session_id, seq, epoch = await session_with_a_turn(gateway, agent="lingering")
    async with acp_socket(gateway, aware=True) as acp, ws_socket(gateway) as ws:
        await relay.stop(session_id, "enough")
        await until_presence(relay, session_id, Presence.GONE)
        error = await acp.error_of(reopen(acp, session_id, seq, epoch))
        assert error["data"]["relaykit"]["code"] == "SESSION_NOT_ACTIVE"
        assert "enough" in error["message"]
        attached = await reattached(ws, session_id, seq, epoch)
        assert (attached["state"], attached["turnRunning"]) == ("TERMINATING", False)
        await ws.skip_to("session:caught_up")
        page = await history(acp, session_id)
        assert page["entries"]
        gate.open()
        assert (await ws.skip_to("session:terminated"))["reason"] == "enough"
        assert (await acp.skip_to("_relaykit/session_ended"))["params"]["reason"] == "enough"


@pytest.mark.parametrize("how", ["load", "resume"])
async def test_while_it_sleeps(gateway: Gateway, relay: Relay, how: str) -> None:
    session_id, seq, epoch = await session_with_a_turn(gateway)
    live = relay.live(session_id)
    await live.fall_asleep("nobody is here")
    async with acp_socket(gateway, aware=True) as acp, ws_socket(gateway) as ws:
        attached = await reattached(ws, session_id, seq, epoch)
        assert attached["presence"] in {"ASLEEP", "WAKING"}
        await ws.skip_to("session:awake")
        await acp.result_of(reopen(acp, session_id, seq, epoch, how))
        assert (await acp.told(session_id, "after"))["stopReason"] == "end_turn"
        assert acp.chunks == ["agent: after"]
        assert seqs(acp)[:2] == [seq + 1, seq + 2]  # asleep, awake
        await ws.skip_to("agent:response")
        assert ws_seqs(ws) == list(range(seq + 1, live.conversation.head + 1))


# ---------------------------------------------------------------- what is said, and never silent


async def test_another_epoch_is_said(gateway: Gateway) -> None:
    session_id, seq, epoch = await session_with_a_turn(gateway)
    async with (
        acp_socket(gateway, aware=True) as aware,
        acp_socket(gateway) as plain,
        ws_socket(gateway) as ws,
    ):
        for acp in (aware, plain):
            result = await acp.result_of(reopen(acp, session_id, seq, "another"))
            facts = result["_meta"]["relaykit"]
            assert (facts["epoch"], facts["epochChanged"]) == (epoch, True)
            assert acp.chunks == ["user: before", "agent: before"]
        told = [message.get("method") for message in aware.heard[1:]]
        assert told[0] == "_relaykit/epoch_changed"
        assert aware.heard[1]["params"]["epoch"] == epoch
        assert not any(str(m.get("method")).startswith("_relaykit") for m in plain.heard)
        attached = await reattached(ws, session_id, seq, "another")
        assert attached["epoch"] == epoch
        caught_up = await ws.skip_to("session:caught_up")
        assert ws_seqs(ws) == list(range(1, caught_up["seq"] + 1))


async def test_what_was_trimmed_is_said_in_the_answer_too(gateway: Gateway, relay: Relay) -> None:
    session_id, seq, epoch = await session_with_a_turn(gateway)
    big = Frame(Kind.UPDATE, b'{"x":"%b"}' % (b"x" * (5 << 20)), method="_filler")
    for _ in range(3):
        await relay.live(session_id).conversation.publish([big])
    await relay._transcripts.journal.trim(session_id, through=seq)
    async with acp_socket(gateway) as plain, ws_socket(gateway) as ws:
        result = await plain.result_of(reopen(plain, session_id, 1, epoch))
        assert result["_meta"]["relaykit"]["gaps"] == [{"from": 2, "to": seq}]
        again = await plain.result_of(reopen(plain, session_id, seq, epoch))
        assert "gaps" not in again["_meta"]["relaykit"]
        await reattached(ws, session_id, 1, epoch)
        gap = await ws.skip_to("session:gap")
        assert (gap["from"], gap["to"]) == (2, seq)
        page = await history(plain, session_id, before=seq + 2)
        assert [entry["seq"] for entry in page["entries"]] == [seq + 1]
        assert page["gap"] == {"from": 1, "to": seq}
        assert "next" not in page


# ---------------------------------------------------------------- history


async def history(socket: AcpSocket, session_id: str, **wanted: int) -> Json:
    return await socket.result_of(socket.ask("_relaykit/history", sessionId=session_id, **wanted))


async def whole_history(socket: AcpSocket, session_id: str, limit: int) -> list[Json]:
    """Return all entries, the newest first, read in pages."""
    entries: list[Json] = []
    page = await history(socket, session_id, limit=limit)
    while True:
        assert 0 < len(page["entries"]) <= limit
        entries += page["entries"]
        if "next" not in page:
            return entries
        assert page["next"] == page["entries"][-1]["seq"]
        page = await history(socket, session_id, before=page["next"], limit=limit)


async def test_history_goes_backwards_also_during_a_turn(gateway: Gateway, relay: Relay) -> None:
    async with acp_socket(gateway, aware=True) as one, acp_socket(gateway) as other:
        session_id = await one.new()
        for text in ("first", "second"):
            await one.told(session_id, text)
        prompt = one.prompt(session_id, "/ask")
        await one.skip_to("session/request_permission")
        live = relay.live(session_id)
        entries: list[Json] = []
        for limit in (1, 2, 100):
            entries = await whole_history(other, session_id, limit)
            assert [entry["seq"] for entry in entries] == list(range(live.conversation.head, 0, -1))
        page = await history(other, session_id)
        assert page["epoch"] == live.conversation.epoch
        told = [message for entry in reversed(entries) for message in entry["messages"]]
        for message in told:
            assert message["jsonrpc"] == "2.0"
            assert message["params"]["sessionId"] == session_id
        texts = [m["params"]["update"]["content"]["text"] for m in told if m["method"] == "session/update"]
        assert texts == ["first", "first", "second", "second", "/ask"]
        assert [m["method"] for m in told[-3:]] == [
            "session/update",
            "_relaykit/turn_started",
            "session/request_permission",
        ]
        assert relay.clients(session_id) == 1  # who only looks does not follow
        one.notify("session/cancel", sessionId=session_id)
        await one.result_of(prompt)
        # As it is told, so it is remembered: each message, byte for byte.
        async with acp_socket(gateway, aware=True) as late:
            await late.open("load", session_id)
            loaded = [message for message in late.heard[1:] if "method" in message]
        assert [m for m in told if m["method"] != "session/request_permission"] == loaded[: len(told) - 1]


async def test_history_of_a_session_that_has_ended(gateway: Gateway, relay: Relay) -> None:
    session_id, seq, _ = await session_with_a_turn(gateway)
    async with acp_socket(gateway) as socket:
        live = relay.live(session_id)
        await relay.stop(session_id, "enough")
        with anyio.fail_after(SECONDS):
            await live.ended.wait()
        entries = await whole_history(socket, session_id, 2)
        assert [entry["seq"] for entry in entries] == list(range(seq + 2, 0, -1))
        assert entries[0]["messages"][0]["method"] == "_relaykit/session_ended"
        assert "epoch" not in await history(socket, session_id)
        assert (await history(socket, session_id, before=1))["entries"] == []
        assert len((await history(socket, session_id, before=9999))["entries"]) == seq + 2
        error = await socket.error_of(socket.ask("_relaykit/history", sessionId="nobody"))
        assert error["code"] == -32002


async def test_a_page_of_history_is_bounded(
    gateway: Gateway, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, seq, _ = await session_with_a_turn(gateway)
    frames = [Frame(Kind.UPDATE, b'{"n":%d,"x":"%b"}' % (n, b"x" * 300_000), method="_big") for n in range(9)]
    await relay.live(session_id).conversation.publish(frames)
    await relay.live(session_id).conversation.publish([Frame(Kind.UPDATE, b"{}", method="_small")] * 2000)
    async with acp_socket(gateway) as socket:
        page = await history(socket, session_id, limit=9999)
        assert len(page["entries"]) == 1000
        page = await history(socket, session_id, before=seq + 10, limit=500)
        assert [entry["seq"] for entry in page["entries"]] == [seq + 9, seq + 8, seq + 7]
        assert page["next"] == seq + 7
        huge = Frame(Kind.UPDATE, b'{"x":"%b"}' % (b"x" * 2_000_000), method="_huge")
        await relay.live(session_id).conversation.publish([huge, huge])
        page = await history(socket, session_id, limit=5)
        assert len(page["entries"]) == 1
        pages = [await history(socket, session_id, before=before, limit=20) for before in (seq + 12, seq + 5)]
        monkeypatch.setattr(
            "relaykit_gateway.acp.history._AT_ONCE_BYTES", 400_000
        )  # what is read for them is too
        again = [await history(socket, session_id, before=before, limit=20) for before in (seq + 12, seq + 5)]
        assert again == pages
        for wrong in ({"before": 0}, {"limit": 0}, {"before": "x"}):
            asked = socket.ask("_relaykit/history", sessionId=session_id, **wrong)
            assert (await socket.error_of(asked))["code"] == -32602
