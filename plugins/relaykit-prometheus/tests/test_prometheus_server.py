"""``/metrics`` on a port of its own, on both event loops, and what its clients may do to it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics

from relaykit.errors import SettingsError
from relaykit.hooks.loader import load_plugins
from relaykit.relay import Relay, open_relay
from relaykit_prometheus import server
from support.relays import PATIENCE, active_session, relay_settings
from support.scraping import all_series, series

pytestmark = pytest.mark.anyio

TOKENLESS = {"RELAY__DISABLED": '["gateway"]', "RELAY__STORAGE": "memory"}


@asynccontextmanager
async def metered_relay(directory: Path, *, serve: bool = True, **environ: str) -> AsyncIterator[Relay]:
    settings = relay_settings(directory, **{**TOKENLESS, "PLUGINS__PROMETHEUS__PORT": "0", **environ})
    async with open_relay(settings, plugins=load_plugins(settings), serve=serve) as relay:
        yield relay


def url_of(relay: Relay) -> str:
    [line] = relay.announcements
    return line.removeprefix("metrics: ")


def port_of(relay: Relay) -> int:
    port = httpx.URL(url_of(relay)).port
    assert port is not None
    return port


async def raw(port: int, said: bytes) -> bytes:
    """Say something, and return all that is answered until the other side closes."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(said)
        heard = b""
        try:
            while True:
                heard += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return heard


GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


async def test_it_answers_a_relay_with_no_gateway(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE):
        async with metered_relay(tmp_path) as relay:
            assert relay.listening
            async with httpx.AsyncClient() as client, active_session(relay):
                url = url_of(relay)
                plain = await client.get(url)
                assert plain.headers["content-type"].startswith("text/plain")
                assert all_series(plain.text)[series("relaykit_sessions", state="ACTIVE")] == 1
                accept = {"accept": "application/openmetrics-text;version=1.0.0"}
                asked = await client.get(f"{url}?name[]=relaykit_sessions_asleep", headers=accept)
                [family] = openmetrics.text_string_to_metric_families(asked.text)  # type: ignore[no-untyped-call]  # theirs
                assert [sample.value for sample in family.samples] == [0]
                head = await client.head(url)
                assert (head.status_code, head.content) == (200, b"")
                assert (await client.get(url.removesuffix("metrics"))).status_code == 404
                refused = await client.post(url, content=b"x" * 100)
                assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        with pytest.raises(OSError, match="connect"):  # it is closed with the relay
            await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0)


async def test_an_application_that_opens_a_relay_opens_no_port(tmp_path: Path) -> None:
    async with metered_relay(tmp_path, serve=False) as relay:
        assert not relay.announcements
        assert [route.path for route in relay.routes] == ["/metrics"]


async def test_a_port_that_is_taken_is_an_error_that_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} of 127.0.0.1.*plugins.prometheus") as caught:
            async with metered_relay(tmp_path, PLUGINS__PROMETHEUS__PORT=str(port)):
                pytest.fail("it opened")
    assert caught.value.key == "plugins.prometheus.port"


async def test_clients_that_misbehave_hold_up_nobody_and_are_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_IDLE", 0.3)
    with caplog.at_level(logging.WARNING), anyio.fail_after(PATIENCE):
        async with metered_relay(tmp_path) as relay:
            port = port_of(relay)
            async with await anyio.connect_tcp("127.0.0.1", port) as silent:
                # One that was answered already and one that never says anything are let go after a while.
                twice = await raw(port, (GET + b"\r\n") * 2)
                assert twice.count(b"HTTP/1.1 200") == 2
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await silent.receive()
            assert (await raw(port, GET + b"Connection: close\r\n\r\n")).count(b"HTTP/1.1 200") == 1
            assert await raw(port, b"\x16\x03\x01 this is no HTTP\r\n\r\n") == b""
            assert await raw(port, GET + b"x: " + b"x" * 1_000_000) == b""
            async with await anyio.connect_tcp("127.0.0.1", port) as gone:
                await gone.send(GET + b"\r\n")
            async with httpx.AsyncClient() as client:
                assert (await client.get(url_of(relay))).status_code == 200
    assert caplog.records == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("PORT", "65536", "plugins.prometheus: port must be 0 to 65535"),
        ("PORT", "-1", "plugins.prometheus: port must be 0 to 65535"),
        ("HOST", "nowhere.invalid", "plugins.prometheus.host: .*'nowhere.invalid'.*correct `host`"),
    ],
)
async def test_an_address_that_is_none_is_said(tmp_path: Path, key: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        async with metered_relay(tmp_path, serve=True, **{f"PLUGINS__PROMETHEUS__{key}": value}):
            pass


async def test_only_so_many_are_served_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 1)
    with anyio.fail_after(PATIENCE):
        async with metered_relay(tmp_path) as relay:
            port = port_of(relay)
            async with await anyio.connect_tcp("127.0.0.1", port) as first:
                await first.send(GET + b"\r\n")
                assert (await first.receive()).startswith(b"HTTP/1.1 200")
                assert await raw(port, GET + b"\r\n") == b""


def test_serve_needs_nothing_else_that_listens(tmp_path: Path) -> None:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAYKIT_")},
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "RELAYKIT_RELAY__DISABLED": '["gateway"]',
        "RELAYKIT_RELAY__WORKSPACE": "in_place",
        "RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS": "false",
    }
    command = [sys.executable, "-m", "relaykit", "serve", "--log-level", "warning"]
    without = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert without.returncode == 2
    assert without.stderr == (
        "relaykit: nothing would listen: install a gateway (pip install relaykit-gateway)\n"
    )
    environ["RELAYKIT_PLUGINS__PROMETHEUS__PORT"] = "0"
    process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("metrics: ").strip()
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert b"relaykit_build_info" in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
