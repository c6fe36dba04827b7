"""`relaykit_gateway.client` against a real relay, over a network that breaks."""

from __future__ import annotations

import gc
import os
import re
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio import to_thread

from relaykit_gateway.acp_client import AcpClient, connect_acp
from relaykit_gateway.address import Address
from relaykit_gateway.client import (
    AcpError,
    ClientError,
    Json,
    Question,
    RemoteSession,
    SessionOver,
    Update,
    connect,
)
from relaykit_gateway.websocket_client import Unreachable, UpgradeRefused
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.gateways import ECHO
from support.servers import Server, relay

pytestmark = pytest.mark.anyio

SECONDS = 30


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Server, CuttingProxy]]:
    with (
        cutting_proxy() as proxy,
        relay(variables={"RELAYKIT_PLUGINS__GATEWAY__PUBLIC_URL": proxy.url}) as server,
    ):
        proxy.forward_to(server.url)
        yield server, proxy


@pytest.fixture
def server(network: tuple[Server, CuttingProxy]) -> Server:
    return network[0]


@pytest.fixture
def proxy(network: tuple[Server, CuttingProxy]) -> CuttingProxy:
    network[1].restore()
    return network[1]


def token_of(server: Server) -> str:
    return server.headers["Authorization"].removeprefix("Bearer ")


def here(server: Server) -> str:
    return server.url.replace("ws://", "http://").removesuffix("/ws")


async def yes(question: Question) -> str:
    options: list[Json] = question.params["options"]
    return next(str(option["optionId"]) for option in options if option["kind"] == "allow_once")


async def test_a_conversation(server: Server) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(here(server), token=token_of(server)) as remote:
            session = await remote.create(role="talk", agent="echo", on_question=yes)
            turn = session.prompt("hello")
            assert [said.text async for said in turn if isinstance(said, Update)] == ["hello"]
            assert turn.stop_reason == "end_turn"
            assert await session.prompt("/ask").text() == "permission: yes"
            listed = {each["sessionId"] for each in await remote.sessions()}
            assert session.id in listed
            await session.close()
            assert session.ended is not None
            with pytest.raises(SessionOver, match="has ended"):
                await session.prompt("too late").text()


async def test_sessions_are_told_apart_and_a_turn_that_is_left_stops_none(server: Server) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(here(server), token=token_of(server)) as remote:
            one = await remote.create(role="one", agent="echo")
            two = await remote.create(role="two", agent="echo")
            async for _ in one.prompt("/stream 3000 10"):
                break  # it goes on, and nobody takes it
            gc.collect()
            assert await two.prompt("hello").text() == "hello"
            assert await one.prompt("behind it").text() == "behind it"
            texts: dict[str, str] = {}

            async def ask(session: RemoteSession) -> None:
                texts[session.role] = await session.prompt(f"I am {session.role}").text()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, one)
                tasks.start_soon(ask, two)
            assert texts == {"one": "I am one", "two": "I am two"}
            for session in (one, two):
                await session.close()


async def test_what_the_agent_or_the_relay_refuses_is_raised(server: Server) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(here(server), token=token_of(server)) as remote:
            session = await remote.create(role="bad", agent="echo")
            with pytest.raises(AcpError):
                await session.prompt("/fail").text()
            with pytest.raises(AcpError) as caught:
                await remote.create(role="bad", agent="echo")
            assert caught.value.word == "DUPLICATE_ROLE"
            with pytest.raises(AcpError):
                await remote.open("nothing-of-the-kind")
            turn = session.prompt("/sleep 60")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(turn.text)
                await anyio.wait_all_tasks_blocked()  # the prompt is on its way
                await session.cancel()
            assert turn.stop_reason == "cancelled"
            await session.close()
        with pytest.raises(UpgradeRefused):
            async with connect(here(server), token="wrong"):
                pass
        with pytest.raises(Unreachable):
            async with connect("http://127.0.0.1:1"):
                pass


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_missed_or_told_twice_though_the_connection_is_cut(
    server: Server, proxy: CuttingProxy, seed: int
) -> None:
    """Cut while it streams, at some place each time, and while it is away the turn goes on."""
    count = 10_000
    places = [200 + 97 * seed, 3000 + 911 * seed]
    accepted: list[int] = []
    with anyio.fail_after(SECONDS):
        async with connect(proxy.url, token=token_of(server)) as remote:
            session = await remote.create(role=f"cut{seed}", agent="echo")
            heard: list[str] = []
            turn = session.prompt(f"/stream {count} 20")
            async for said in turn:
                assert isinstance(said, Update)
                heard.append(said.text)
                if len(heard) in places:
                    accepted.append(proxy.accepted)
                    await to_thread.run_sync(proxy.cut_once)
            assert turn.stop_reason == "end_turn"
            numbers = [int(found[0]) for text in heard if (found := re.match(r"\d+", text))]
            assert len(heard) >= count
            assert numbers == sorted(set(numbers))
            assert await session.prompt("still here?").text() == "still here?"
            await session.close()
    # What had come before the first cut may last until the second: then there was no connection to cut.
    assert proxy.accepted > accepted[1] >= accepted[0]


async def test_a_question_waits_for_who_comes_back(server: Server, proxy: CuttingProxy) -> None:
    asked: list[str] = []

    async def answer(question: Question) -> str | None:
        asked.append(question.id)
        if len(asked) == 1:
            await to_thread.run_sync(proxy.cut_once)
            return None
        return await yes(question)

    with anyio.fail_after(SECONDS):
        async with connect(proxy.url, token=token_of(server)) as remote:
            session = await remote.create(role="asks", agent="echo", on_question=answer)
            assert await session.prompt("/ask").text() == "permission: yes"
            await session.close()
    assert len(asked) == 2
    assert asked[0] == asked[1]


async def test_a_prompt_of_the_time_without_a_network_is_said_once_it_is_back(
    server: Server, proxy: CuttingProxy
) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(proxy.url, token=token_of(server)) as remote:
            session = await remote.create(role="offline", agent="echo")
            await to_thread.run_sync(proxy.cut)
            said: list[str] = []

            async def ask() -> None:
                said.append(await session.prompt("hello").text())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                await to_thread.run_sync(proxy.restore)
            assert said == ["hello"]
            await session.close()


async def test_patience_has_an_end(server: Server, proxy: CuttingProxy) -> None:
    with anyio.fail_after(SECONDS):
        async with connect(proxy.url, token=token_of(server), patience=0.2) as remote:
            session = await remote.create(role="given-up", agent="echo")
            await to_thread.run_sync(proxy.cut)
            with pytest.raises(ClientError):
                await session.prompt("hello").text()
            with pytest.raises(ClientError):
                await remote.sessions()
    async with connect(here(server), token=token_of(server)) as remote:
        await (await remote.open(session.id)).close()


async def test_a_relay_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """What ran is interrupted, and goes on; a session whose agent cannot be started any more harms no other."""
    fickle, port = tmp_path / "fickle", 0
    write_program(fickle)

    def serve() -> AbstractContextManager[Server]:
        return relay(
            state_dir=tmp_path / "state",
            storage="sqlite",
            agents={"fickle": [str(fickle)]},
            variables={
                "RELAYKIT_PLUGINS__GATEWAY__PORT": str(port),
                "RELAYKIT_RELAY__DEFAULT_AGENT": "echo",
            },
        )

    asked = anyio.Event()

    async def answer(question: Question) -> str | None:
        if asked.is_set():
            return await yes(question)
        asked.set()
        return None

    with ExitStack() as relays, anyio.fail_after(SECONDS):
        first = relays.enter_context(serve())
        port = urlsplit(first.url).port or 0
        async with connect(here(first), token=token_of(first)) as remote, anyio.create_task_group() as tasks:
            bad = await remote.create(role="bad", agent="fickle")
            good = await remote.create(role="good", agent="echo", on_question=answer)
            errors: list[str] = []

            async def ask() -> None:
                with pytest.raises(AcpError) as caught:
                    await good.prompt("/ask").text()
                errors.append(str(caught.value))

            tasks.start_soon(ask)
            await asked.wait()
            fickle.unlink()
            os.kill(first.pid, signal.SIGKILL)
            await to_thread.run_sync(relays.enter_context, serve())
            assert await good.prompt("/ask").text() == "permission: yes"
            assert errors == ["interrupted: the relay was restarted"]
            with pytest.raises(AcpError, match="fickle"):
                await bad.prompt("hello").text()
            write_program(fickle)
            assert await bad.prompt("hello").text() == "hello"
            for session in (good, bad):
                await session.close()


async def test_a_session_that_ended_meanwhile_is_over(server: Server, proxy: CuttingProxy) -> None:
    with anyio.fail_after(SECONDS):
        async with (
            connect(here(server), token=token_of(server)) as other,
            connect(proxy.url, token=token_of(server)) as remote,
        ):
            one, two = [await remote.create(role=role, agent="echo") for role in ("ends", "ends-too")]
            await to_thread.run_sync(proxy.cut)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.close)
                for session in (one, two):
                    await (await other.open(session.id)).close()
                await to_thread.run_sync(proxy.restore)
            for session in (one, two):
                with pytest.raises(SessionOver):
                    await session.prompt("too late").text()
                await session.close()


async def test_a_proxy_whose_relay_is_away_is_asked_again(server: Server, proxy: CuttingProxy) -> None:
    with anyio.fail_after(SECONDS), bad_gateway() as (url, answered):
        async with connect(proxy.url, token=token_of(server)) as remote:
            session = await remote.create(role="patient", agent="echo")
            proxy.move_to(url)
            await to_thread.run_sync(proxy.cut_once)
            await to_thread.run_sync(answered.wait, SECONDS)
            proxy.move_to(server.url)
            assert await session.prompt("hello").text() == "hello"
            await session.close()
        with pytest.raises(UpgradeRefused, match="502"):
            async with connect(url, token=token_of(server)):
                pass


@contextmanager
def bad_gateway() -> Iterator[tuple[str, threading.Event]]:
    """Answer as a proxy does that finds nobody behind it; tell when that was first done."""
    answered = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(502)
            self.send_header("Content-Length", "0")
            self.end_headers()
            answered.set()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", answered
        finally:
            server.shutdown()
            thread.join()


async def test_what_the_relay_cannot_start_just_now_it_is_asked_for_again(
    server: Server, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the default agent, whose capabilities it tells when somebody connects."""
    dialled: list[Address] = []

    def dial(address: Address, **more: Any) -> AbstractAsyncContextManager[AcpClient]:
        dialled.append(address)
        if len(dialled) == 2:
            raise AcpError(-32000, "log in first")
        return connect_acp(address, **more)

    monkeypatch.setattr("relaykit_gateway.client.relay.connect_acp", dial)
    with anyio.fail_after(SECONDS):
        async with connect(proxy.url, token=token_of(server)) as remote:
            session = await remote.create(role="later", agent="echo")
            await to_thread.run_sync(proxy.cut_once)
            assert await session.prompt("hello").text() == "hello"
            await session.close()
    assert len(dialled) == 3


async def test_what_a_callback_raises_is_raised_as_it_is(server: Server) -> None:
    async def answer(_: Question) -> str:
        raise ZeroDivisionError("a bug")

    async def ask() -> None:
        async with connect(here(server), token=token_of(server)) as remote:
            session = await remote.create(role="buggy", agent="echo", on_question=answer)
            await session.prompt("/ask").text()

    with anyio.fail_after(SECONDS):
        with pytest.raises(ZeroDivisionError, match="a bug"):
            await ask()
        async with connect(here(server), token=token_of(server)) as remote:
            for listed in await remote.sessions():
                await (await remote.open(listed["sessionId"])).close()


def write_program(path: Path) -> None:
    """Write an echo agent that can be removed."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(ECHO)} "$@"\n')
    path.chmod(0o700)
