from __future__ import annotations

import os
import socket
import termios
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import anyio
import pytest

from relaykit.relay.running import running_file
from relaykit.settings import load_settings
from relaykit.testing import FakeClock
from relaykit_gateway.address import Address, ClientError, NoRelayRunning, find_relay
from relaykit_gateway.http_client import HttpClient, RequestRefused
from relaykit_gateway.terminal.lines import Lines
from relaykit_gateway.terminal.screen import Screen, Style, printable, shortened
from relaykit_gateway.websocket_client import Disconnected, Unreachable, UpgradeRefused
from relaykit_gateway.ws_client import connect
from support.programs import Place, serving

pytestmark = pytest.mark.anyio

SECONDS = 20


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The address of a relay that runs, as its own program."""
    place = Place(tmp_path_factory.mktemp("client"))
    with serving(place):
        yield find_relay(load_settings(environ=place.environment(), cwd=place.work))


def bad_server(answer: bytes) -> tuple[Address, socket.socket]:
    """Return a server that answers everybody with these bytes, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return Address(f"http://127.0.0.1:{listener.getsockname()[1]}"), listener


async def test_messages_go_both_ways(address: Address) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(address) as client:
            assert (await client.receive())["type"] == "connection:established"
            text = "Grüße " * 20_000
            await client.send("echo", text=text)
            echoed = await client.receive()
    assert (echoed["type"], echoed["text"]) == ("echo", text)


async def test_many_may_send_at_once(address: Address) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(address) as client, anyio.create_task_group() as tasks:
            await client.receive()
            for number in range(50):
                tasks.start_soon(partial(client.send, "echo", number=number, filling="x" * 10_000))
            echoed = [await client.receive() for _ in range(50)]
    assert {message["number"] for message in echoed} == set(range(50))


async def test_cancelled_waiting_takes_nothing(address: Address) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(address) as client:
            await client.receive()
            with anyio.move_on_after(0.05) as waiting:
                await client.receive()
            assert waiting.cancelled_caught
            await client.send("echo", number=1)
            assert (await client.receive())["number"] == 1


async def test_the_relay_may_close(address: Address) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(address) as client:
            await client.receive()
            await client.send("echo", version="9.9")
            assert (await client.receive())["error"]["code"] == "VERSION_MISMATCH"
            for _ in "ab":
                with pytest.raises(Disconnected) as caught:
                    await client.receive()
                assert caught.value.code == 1002
            with pytest.raises(Disconnected):
                await client.send("echo")


async def test_a_wrong_token_is_refused(address: Address) -> None:
    with anyio.fail_after(SECONDS):
        with pytest.raises(UpgradeRefused) as caught:
            async with connect(replace(address, token="wrong")):
                pytest.fail("it let us in")
    assert caught.value.status == 401


async def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with anyio.fail_after(SECONDS), pytest.raises(Unreachable, match="nobody answers"):
        async with connect(Address(f"http://127.0.0.1:{port}")):
            pytest.fail("somebody was there")


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b""]
)
async def test_something_else_is_there(answer: bytes) -> None:
    address, listener = bad_server(answer)
    with listener, anyio.fail_after(SECONDS), pytest.raises(Unreachable, match="no relay answers"):
        async with connect(address):
            pytest.fail("it spoke WebSocket")


def test_http(address: Address) -> None:
    relay = HttpClient(address)
    assert relay.sessions() == []
    assert "relaykit_sessions" in relay.get("/metrics")
    with pytest.raises(RequestRefused, match="no session 'nobody'") as caught:
        relay.session("nobody")
    assert caught.value.status == 404
    with pytest.raises(RequestRefused, match="token"):
        HttpClient(replace(address, token=None)).sessions()


def test_http_with_something_else() -> None:
    address, listener = bad_server(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n[]")
    with listener, pytest.raises(RequestRefused, match="the relay answered with HTTP status 500"):
        HttpClient(address).sessions()
    address, listener = bad_server(b"hm\r\n")
    with listener, pytest.raises(ClientError, match="does not answer"):
        HttpClient(address).sessions()


def test_the_token_comes_from_the_settings_or_the_state_directory(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    settings = load_settings(environ=environ, cwd=tmp_path)
    with pytest.raises(NoRelayRunning, match="start one with `relaykit serve`"):
        find_relay(settings)
    with running_file(settings.state_dir, started=FakeClock().now()) as running:
        with pytest.raises(NoRelayRunning, match="has no gateway"):
            find_relay(settings)
        running.set_url("http://127.0.0.1:7433")
        with pytest.raises(ClientError, match="token cannot be read"):
            find_relay(settings)
        (settings.state_dir / "gateway").mkdir()
        (settings.state_dir / "gateway" / "token").write_text("kept\n")
        found = find_relay(settings)
        assert (found.url, found.host, found.port, found.token) == (
            "http://127.0.0.1:7433",
            "127.0.0.1",
            7433,
            "kept",
        )
        assert "kept" not in repr(found)
        given = {**environ, "RELAYKIT_PLUGINS__GATEWAY__TOKEN": "given-in-settings"}
        assert find_relay(load_settings(environ=given, cwd=tmp_path)).token == "given-in-settings"
        without = {**environ, "RELAYKIT_PLUGINS__GATEWAY__AUTH": "false"}
        assert find_relay(load_settings(environ=without, cwd=tmp_path)).headers == {}


async def test_lines_come_as_they_are_written() -> None:
    reading, writing = os.pipe()
    lines = Lines(reading)
    with anyio.fail_after(SECONDS):
        os.write(writing, b"one\r\ntwo\nth")
        assert [await lines.next(), await lines.next()] == ["one", "two"]
        with anyio.move_on_after(0.05) as waiting:
            await lines.next()
        assert waiting.cancelled_caught
        os.write(writing, b"ree\n\xff\nrest")
        os.close(writing)
        assert [await lines.next() for _ in range(3)] == ["three", "�", "rest"]
        for _ in "ab":
            with pytest.raises(anyio.EndOfStream):
                await lines.next()
    os.close(reading)


async def test_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\n\ntwo")
    with (tmp_path / "lines").open() as file, anyio.fail_after(SECONDS):
        lines = Lines(file.fileno())
        assert [await lines.next() for _ in range(3)] == ["one", "", "two"]
        with pytest.raises(anyio.EndOfStream):
            await lines.next()


def test_text_of_others_changes_no_terminal() -> None:
    assert printable("a\x1b[31mb\x9b2J\r\b\x00\tc\nd\u202ee\u2066") == "a[31mb2J\tc\nde"
    assert shortened("one\n two\x1b  three", 9) == "one two …"


def test_styles_show_in_colours_alone() -> None:
    for colours, expected in ((True, "\x1b[31mx\x1b[0m\n"), (False, "x\n")):
        stream = StringIO()
        Screen(stream, colours=colours).line("x", Style.RED)
        assert stream.getvalue() == expected


@pytest.mark.parametrize(
    ("environ", "plain", "colours"),
    [
        ({"TERM": "xterm"}, False, True),
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({}, False, True),
    ],
)
def test_colours_are_for_terminals(environ: dict[str, str], plain: bool, colours: bool) -> None:  # noqa: FBT001 -- a parameter
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, StringIO() as text:
        assert Screen.on(terminal, environ, plain=plain).colours is colours
        assert not Screen.on(text, environ, plain=plain).colours
    os.close(ours)


async def test_one_key_is_enough_on_a_terminal() -> None:
    ours, theirs = os.openpty()
    try:
        before = termios.tcgetattr(theirs)
        lines = Lines(theirs)
        assert lines.on_terminal
        with anyio.fail_after(SECONDS):
            with lines.keys():
                os.write(ours, "yé".encode())
                assert [await lines.key(), await lines.key()] == ["y", "é"]
                os.write(ours, b"\x1b[A\x1bOP\x1b[15~\x1b\t\n3rest")
                assert await lines.key() == "3"
                with anyio.move_on_after(0.05) as waiting:
                    [await lines.key() for _ in range(5)]
                assert waiting.cancelled_caught
                os.write(ours, b"\x04")
                with pytest.raises(anyio.EndOfStream):
                    await lines.key()
            assert termios.tcgetattr(theirs) == before
            os.write(ours, b"a line\n")
            assert await lines.next() == "a line"
            os.set_blocking(ours, False)
            assert os.read(ours, 100) == b"a line\r\n"  # the keys were not shown
    finally:
        os.close(ours)
        os.close(theirs)
