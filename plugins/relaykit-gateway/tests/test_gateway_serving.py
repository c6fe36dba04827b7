"""Listening: the address, its errors, the running file, and loops that uvicorn does not run on."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
import pytest

from relaykit.errors import RelaykitError, SettingsError
from relaykit.relay.running import read_running
from relaykit_gateway.token import token_path
from support.gateways import address_of, connected, gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio


@pytest.fixture
def on_asyncio(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("uvicorn runs on asyncio alone")


async def test_elsewhere_than_on_asyncio_it_says_so(anyio_backend_name: str, tmp_path: Path) -> None:
    if anyio_backend_name == "asyncio":
        pytest.skip("here it serves")
    with pytest.raises(RelaykitError, match=r"asyncio alone.*gateway_app"):
        async with open_gateway_relay(gateway_settings(tmp_path)):
            pytest.fail("it served")


@pytest.mark.usefixtures("on_asyncio")
async def test_it_says_where_it_listens(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path)
    async with open_gateway_relay(settings) as relay:
        url, token = address_of(relay)
        running = read_running(settings.state_dir)
        assert running is not None
        assert running.url == url
        assert token == token_path(settings.state_dir).read_text()
        assert token not in (settings.state_dir / "running.json").read_text()
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{url}/healthz")).json() == {"status": "ok"}
            assert "server" not in (await client.get(f"{url}/healthz")).headers
    assert read_running(settings.state_dir) is None
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0  # nobody listens any more


@pytest.mark.usefixtures("on_asyncio")
async def test_the_token_is_the_same_after_a_restart(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(2):
        async with open_gateway_relay(gateway_settings(tmp_path)) as relay:
            tokens.add(address_of(relay)[1])
            async with connected(relay):
                pass
    assert len(tokens) == 1


@pytest.mark.usefixtures("on_asyncio")
async def test_the_link_has_the_public_address(tmp_path: Path) -> None:
    config = 'public_url = "https://relay.example.com"\ntoken = "0123456789abcdef"'
    async with open_gateway_relay(gateway_settings(tmp_path, gateway=config)) as relay:
        assert relay.announcements == ["https://relay.example.com/?token=0123456789abcdef"]


@pytest.mark.usefixtures("on_asyncio")
async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} of 127\.0\.0\.1.*--port"):
            async with open_gateway_relay(gateway_settings(tmp_path, gateway=f"port = {port}")):
                pytest.fail("it served")


@pytest.mark.usefixtures("on_asyncio")
async def test_an_address_that_is_none(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, gateway=f"host = {json.dumps('256.0.0.1')}")
    with pytest.raises(SettingsError, match=r"256\.0\.0\.1"):
        async with open_gateway_relay(settings):
            pytest.fail("it served")


@pytest.mark.usefixtures("on_asyncio")
async def test_the_blocks_own_error_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_gateway_relay(gateway_settings(tmp_path)) as relay, connected(relay):
            raise ZeroDivisionError
