"""How many clients there may be, and how fast each may speak; where there is no network, on both loops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

import anyio
import pytest
from websockets.exceptions import InvalidStatus

from relaykit.testing.fakes import FakeClock
from relaykit_gateway import limits
from relaykit_gateway.app import build_app
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.limits import MessageRate
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.token import token_path
from support.acp_sockets import acp_socket, gateway_of
from support.asgi_websocket import asgi_websocket
from support.gateways import SECONDS, connected, gateway_settings, open_gateway_relay
from support.ws_sockets import ws_socket

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def open_gateway(directory: Path, settings: str) -> AsyncIterator[Gateway]:
    async with open_gateway_relay(gateway_settings(directory, gateway=settings), serve=False) as relay:
        yield gateway_of(relay)


# ---------------------------------------------------------------- how many


async def test_one_too_many_is_told_to_come_again(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, "max_clients = 2") as gateway:
        token = token_path(gateway.relay.settings.state_dir).read_text()
        async with ws_socket(gateway) as first:
            async with acp_socket(gateway):
                for path in ("/ws", "/acp"):
                    async with asgi_websocket(build_app(gateway).__call__, path, token=token) as (_, hear):
                        with anyio.fail_after(SECONDS):
                            assert (await hear())["type"] == "websocket.accept"
                            assert await hear() == {
                                "type": "websocket.close",
                                "code": 1013,
                                "reason": "2 clients are connected, and no more may be",
                            }
                first.say("echo")
                await first.skip_to("echo")
            async with ws_socket(gateway):  # the place is free again
                pass


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_a_server_that_can_answers_with_503(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, gateway="max_clients = 3")
    async with open_gateway_relay(settings) as relay:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connected(relay))
            for _ in range(2):
                with pytest.raises(InvalidStatus) as refused:
                    await stack.enter_async_context(connected(relay))
                response = refused.value.response
                assert response.status_code == 503
                assert response.headers["retry-after"] == "5"
                assert b"3 clients are connected" in (response.body or b"")
        async with connected(relay) as client:
            await client.say("echo")
            await client.expect("echo")


async def test_who_is_not_let_in_takes_no_place(tmp_path: Path) -> None:
    async with (
        open_gateway(tmp_path, "max_clients = 1") as gateway,
        asgi_websocket(build_app(gateway).__call__, "/ws", token="wrong") as (_, hear),
    ):
        with anyio.fail_after(SECONDS):
            assert (await hear())["type"] == "websocket.close"
        async with ws_socket(gateway):
            pass


# ---------------------------------------------------------------- how fast


def test_the_rate() -> None:
    clock = FakeClock()
    rate = MessageRate(10, clock)
    assert [rate.take() for _ in range(10)] == [0] * 10
    assert rate.take() == pytest.approx(0.1)
    assert rate.take() == pytest.approx(0.2)
    clock.advance(0.2)
    assert rate.take() == pytest.approx(0.1)
    clock.advance(3600)  # no more than a second's worth is saved up
    assert [rate.take() for _ in range(10)] == [0] * 10
    assert rate.take() == pytest.approx(0.1)


def test_who_keeps_flooding() -> None:
    clock = FakeClock()
    rate = MessageRate(10, clock)
    while not rate.take():
        pass
    began = clock.monotonic()
    while not rate.is_flooded:
        clock.advance(rate.take())  # as fast as it is let
        assert clock.monotonic() < began + 11
    assert clock.monotonic() > began + 10


def test_who_pauses_now_and_then_does_not_flood() -> None:
    clock = FakeClock()
    rate = MessageRate(10, clock)
    for _ in range(20):  # bursts, for far longer than ten seconds
        for _ in range(40):
            clock.advance(rate.take())
            assert not rate.is_flooded
        clock.advance(0.7)


def test_a_loop_that_is_late_makes_no_pause() -> None:
    clock = FakeClock()
    rate = MessageRate(1000, clock)
    while not rate.is_flooded:
        if seconds := rate.take():
            clock.advance(seconds + 0.05)  # in which fifty more are let through
        assert clock.monotonic() < 11
    assert clock.monotonic() > 10


def test_no_limit() -> None:
    rate = MessageRate(0, FakeClock())
    assert not any(rate.take() for _ in range(1000))
    assert not rate.is_flooded


async def test_who_is_too_fast_is_slowed_down_alone(tmp_path: Path) -> None:
    async with (
        open_gateway(tmp_path, "max_messages_per_second = 40") as gateway,
        ws_socket(gateway) as fast,
        ws_socket(gateway) as other,
    ):
        began = monotonic()
        for number in range(80):
            fast.say("echo", number=number)
        other.say("echo")
        await other.skip_to("echo")
        assert len(gateway.channels) == 2
        heard = [(await fast.skip_to("echo"))["number"] for _ in range(80)]
        assert heard == list(range(80))
        assert monotonic() - began > 0.9  # 40 at once, and the others at 40 a second


async def test_who_floods_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLOOD_SECONDS", 0.3)
    async with (
        open_gateway(tmp_path, "max_messages_per_second = 100") as gateway,
        ws_socket(gateway) as client,
        ws_socket(gateway) as other,
    ):
        for _ in range(1000):
            client.say("echo")
        assert await client.closed() == 1008
        assert 100 < len(client.heard) < 600
        other.say("echo")
        await other.skip_to("echo")


@pytest.mark.parametrize("name", ["max_clients", "max_messages_per_second"])
def test_settings(name: str) -> None:
    assert getattr(GatewaySettings(**{name: 0}), name) == 0  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name} must be 0"):
        GatewaySettings(**{name: -1})  # type: ignore[arg-type]
