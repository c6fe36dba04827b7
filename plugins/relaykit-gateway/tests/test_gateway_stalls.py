"""Clients that take nothing, without a network: by a clock that stands still, on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Frame, Kind
from relaykit.hooks import hookimpl
from relaykit.hooks.loader import load_plugins
from relaykit.meter import Meter
from relaykit.relay import Relay, open_relay
from relaykit.testing import FakeClock
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.stalls import Progress, place_of
from support.acp_sockets import AcpSocket, acp_socket, gateway_of
from support.gateways import SECONDS, gateway_settings
from support.plugin_sites import RecordingMeter
from support.ws_sockets import WsSocket, ws_socket

pytestmark = pytest.mark.anyio


class Metered:
    """A plugin that keeps what is counted."""

    def __init__(self) -> None:
        self.meter = RecordingMeter()

    @hookimpl
    def relaykit_register_meter(self) -> Meter:
        return self.meter

    @property
    def stalled(self) -> list[str]:
        return [labels["protocol"] for name, _, labels in self.meter.counted if name == "clients_stalled"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metered() -> Metered:
    return Metered()


@pytest.fixture
async def gateway(tmp_path: Path, clock: FakeClock, metered: Metered) -> AsyncIterator[Gateway]:
    settings = gateway_settings(tmp_path)
    plugins = load_plugins(settings, extra={"metered": metered})
    async with open_relay(settings, plugins=plugins, clock=clock) as relay:
        gateway = gateway_of(relay)
        gateway.stalls._started = True  # it looks when a test says so, and never by itself
        yield gateway


@pytest.fixture
def relay(gateway: Gateway) -> Relay:
    return gateway.relay


async def publish(relay: Relay, session_id: str, count: int) -> None:
    frame = Frame(Kind.UPDATE, b'{"update":{"sessionUpdate":"x"}}', method="session/update")
    await relay.live(session_id).conversation.publish([frame] * count)


async def until_it_waits(gateway: Gateway) -> None:
    """Wait until a client has to be waited for, and no other has; look at it for the first time."""
    with anyio.fail_after(SECONDS):
        await anyio.wait_all_tasks_blocked()
        while [channel.progress.waiting for channel in gateway.channels if channel.progress.waiting] != [1]:
            await anyio.lowlevel.checkpoint()
    gateway.stalls.look()


async def closed(socket: AcpSocket | WsSocket) -> dict[str, Any]:
    await anyio.wait_all_tasks_blocked()  # what was being sent is not sent any more
    event = await socket.event()
    assert event["type"] == "websocket.close", event
    return dict(event)


async def test_who_takes_nothing_for_long_is_sent_away_with_its_place(
    gateway: Gateway, relay: Relay, clock: FakeClock, metered: Metered
) -> None:
    async with acp_socket(gateway) as one, acp_socket(gateway, room=0) as deaf:
        session_id = await one.new()
        await deaf.open("load", session_id)
        await publish(relay, session_id, 3)
        head = relay.live(session_id).conversation.head
        assert (await deaf.hear())["params"]["_meta"]["relaykit"]["seq"] == head - 2
        await until_it_waits(gateway)
        clock.advance(29.9)
        gateway.stalls.look()
        assert len(gateway.channels) == 2
        clock.advance(0.1)
        gateway.stalls.look()
        gateway.stalls.look()
        event = await closed(deaf)
        assert (event["code"], event["reason"]) == (1013, f"stalled {session_id}:{head - 2}")
        assert metered.stalled == ["acp"]
        await one.told(session_id, "hello")  # nobody else notices
        assert relay.clients(session_id) == 1
        async with acp_socket(gateway) as again:
            await again.open("resume", session_id, after=head - 2)
            seqs = [m["params"]["_meta"]["relaykit"]["seq"] for m in again.heard if "method" in m]
            assert seqs[:2] == [head - 1, head]


async def test_ws_too(gateway: Gateway, relay: Relay, clock: FakeClock, metered: Metered) -> None:
    async with acp_socket(gateway) as one, ws_socket(gateway, room=0) as deaf:
        session_id = await one.new()
        deaf.say("session:attach", sessionId=session_id)
        caught_up = await deaf.skip_to("session:caught_up")
        await publish(relay, session_id, 3)
        await until_it_waits(gateway)
        clock.advance(30)
        for _ in range(2):
            gateway.stalls.look()
        event = await closed(deaf)
        assert event == {
            "type": "websocket.close",
            "code": 1013,
            "reason": f"stalled {session_id}:{caught_up['seq']}",
        }
        assert metered.stalled == ["ws"]


async def test_who_takes_a_little_now_and_then_stays(
    gateway: Gateway, relay: Relay, clock: FakeClock, metered: Metered
) -> None:
    async with acp_socket(gateway) as one, acp_socket(gateway, room=0) as slow:
        session_id = await one.new()
        await slow.open("load", session_id)
        await publish(relay, session_id, 10)
        for _ in range(10):
            await until_it_waits(gateway)
            clock.advance(29)
            gateway.stalls.look()
            await slow.hear()
        await anyio.wait_all_tasks_blocked()
        clock.advance(1000)  # there is nothing to take
        gateway.stalls.look()
        gateway.stalls.look()
        await one.told(session_id, "hello")
        assert metered.stalled == []
        while "agent: hello" not in slow.chunks:
            await slow.hear()


async def test_a_relay_that_was_held_up_sends_nobody_away_for_that(
    gateway: Gateway, relay: Relay, clock: FakeClock, metered: Metered
) -> None:
    async with acp_socket(gateway, room=0) as slow:
        session_id = await slow.new()
        await publish(relay, session_id, 3)
        for _ in range(3):
            await until_it_waits(gateway)
            clock.advance(1000)
            gateway.stalls.look()  # before anybody had its turn
            await slow.hear()
            await anyio.wait_all_tasks_blocked()
            gateway.stalls.look()
        assert metered.stalled == []


def test_slow_and_stalled_are_told_apart_by_what_was_taken() -> None:
    class Taken:
        bytes = 0

        def taken(self) -> int:
            return self.bytes

        async def send_texts(self, texts: Sequence[str], /) -> None:
            raise NotImplementedError

        def let_go(self, code: int, reason: str) -> None:
            raise NotImplementedError

    progress, pipe = Progress(), Taken()
    progress.pipe = pipe
    assert progress.stalled_for(0) == 0
    progress.waiting = 1  # one send, and it lasts
    assert progress.stalled_for(10) == 0
    assert progress.stalled_for(20) == 10
    pipe.bytes += 1
    assert progress.stalled_for(40) == 0
    assert progress.stalled_for(50) == 10
    progress.waiting = 0
    assert progress.stalled_for(60) == 0
    progress.waiting = 1  # another one
    assert progress.stalled_for(90) == 0


async def test_a_place_fits_into_a_reason(relay: Relay) -> None:
    session = await relay.create("auth")
    with anyio.fail_after(SECONDS):
        while not relay.live(session.id).conversation.head:
            await anyio.lowlevel.checkpoint()
    assert place_of(relay, []) == "stalled"
    others = [(f"{number:032}", 1_000_000) for number in range(5)]
    reason = place_of(relay, [*others, (session.id, 0)])
    assert len(reason.encode()) <= 123
    assert reason == f"stalled {session.id}:0 {others[0][0]}:1000000 +4"
