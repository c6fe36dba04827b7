"""Clients with real sockets that read nothing, or slowly; on both of asyncio's loops."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.relay import Relay
from support.gateways import BACKENDS, Presence, connected, gateway_settings, open_gateway_relay
from support.receivers import SMALL, receiver

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS, ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def opened(directory: Path, presence: Presence, *, seconds: float = 1) -> AsyncIterator[Relay]:
    timeouts = f"ping_interval = {seconds}\npong_timeout = {seconds}\nstall_timeout = {seconds}"
    settings = gateway_settings(directory, gateway=timeouts)
    async with open_gateway_relay(settings, extra={"presence": presence}) as relay:
        yield relay


async def test_a_receiver_that_does_not_read_is_closed_with_its_place(tmp_path: Path) -> None:
    presence = Presence()
    async with opened(tmp_path, presence) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        async with receiver(relay, session_id) as deaf:
            await presence.until(relay, session_id, 2)
            await client.prompt(session_id, "/stream 4000 4000")  # 16 MB: no socket buffers that
            await presence.until(relay, session_id, 1)
            while deaf.close is None:  # what was sent is there, and then the close
                await deaf.read()
            assert deaf.close == (1013, f"stalled {session_id}:{deaf.seqs[-1]}")
            assert deaf.seqs == list(range(deaf.seqs[0], deaf.seqs[-1] + 1))
        assert len(deaf.seqs) < 4000
        async with connected(relay, max_size=None) as again:  # and there it goes on
            await again.say("session:attach", sessionId=session_id, after=deaf.seqs[-1])
            await again.expect("session:attached")
            rest = [(await again.expect("agent:update"))["seq"] for _ in range(4000 - len(deaf.seqs) + 1)]
            assert rest == list(range(deaf.seqs[-1] + 1, rest[-1] + 1))


async def test_a_receiver_that_does_not_even_read_the_close_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaykit_gateway.websocket_protocol._LET_GO_SECONDS", 0.1)
    presence = Presence()
    async with opened(tmp_path, presence) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        async with receiver(relay, session_id) as deaf:
            await presence.until(relay, session_id, 2)
            await client.prompt(session_id, "/stream 4000 4000")
            await presence.until(relay, session_id, 1)
            await anyio.sleep(0.5)  # so long nobody tells anybody anything
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await deaf.read_to_the_end()
            assert deaf.close is None


async def test_a_receiver_that_reads_slowly_but_steadily_stays(tmp_path: Path) -> None:
    presence = Presence()
    async with opened(tmp_path, presence, seconds=3) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        async with receiver(relay, session_id) as slow:
            await presence.until(relay, session_id, 2)
            await client.prompt(session_id, "/stream 4000 4000")
            # Three times as long as it might stall. The system's buffer has room again only when a megabyte was read,
            # for which it takes longer than it might stall.
            for _ in range(180):
                await anyio.sleep(0.05)  # that is its pace
                await slow.read(SMALL // 4)
            while len(slow.seqs) < 4001:  # the prompt is one too
                assert slow.close is None
                await slow.read()
            assert slow.seqs == list(range(slow.seqs[0], slow.seqs[0] + 4001))
            assert relay.clients(session_id) == 2


@pytest.mark.parametrize("seed", range(2))
async def test_connections_that_break_at_any_byte_lose_nothing(tmp_path: Path, seed: int) -> None:
    count, chance = 6000, random.Random(seed)

    async def come_and_go(relay: Relay, session_id: str) -> None:
        seqs = [0]
        while len(seqs) <= count + 1:  # the prompt is one too
            async with receiver(relay, session_id, after=seqs[-1]) as client:
                left = chance.choice([100, 10_000, 300_000, 3_000_000])
                while left > 0 and len(seqs) + len(client.seqs) <= count + 1:
                    size = chance.choice([1, 100, SMALL])
                    await client.read(size)
                    left -= size
            seqs += client.seqs
        told.append(seqs[1:])

    told: list[list[int]] = []
    async with opened(tmp_path, Presence(), seconds=10) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(come_and_go, relay, session_id)
            await client.prompt(session_id, f"/stream {count} 300")
        for seqs in told:
            assert seqs == list(range(seqs[0], seqs[0] + count + 1))
