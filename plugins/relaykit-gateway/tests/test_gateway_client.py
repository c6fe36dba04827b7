"""`relaykit_gateway.client` against a real relay, over a network that breaks."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator

import anyio
import pytest
from anyio import to_thread

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
    accepted = proxy.accepted
    with anyio.fail_after(SECONDS):
        async with connect(proxy.url, token=token_of(server)) as remote:
            session = await remote.create(role=f"cut{seed}", agent="echo")
            heard: list[str] = []
            turn = session.prompt(f"/stream {count} 20")
            async for said in turn:
                assert isinstance(said, Update)
                heard.append(said.text)
                if len(heard) in places:
                    await to_thread.run_sync(proxy.cut_once)
            assert turn.stop_reason == "end_turn"
            numbers = [int(found[0]) for text in heard if (found := re.match(r"\d+", text))]
            assert len(heard) >= count
            assert numbers == sorted(set(numbers))
            assert await session.prompt("still here?").text() == "still here?"
            await session.close()
    assert proxy.accepted >= accepted + 3


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
