"""A flood, and a client that never reads: the relay does not grow, and another client gets everything meanwhile.

``RELAYKIT_FLOOD_MB`` says how large the flood is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.acp_talk import AcpTalker
from support.servers import Server, relay

FLOOD_MB = int(os.environ.get("RELAYKIT_FLOOD_MB", "40"))
GROWTH = 16 << 20
SMALL = 4000
SECONDS = 60 + FLOOD_MB


def talker_of(server: Server) -> AcpTalker:
    return AcpTalker(server.url.removesuffix("/ws") + "/acp?agent=echo", headers=server.headers)


class Peak:
    """The most memory that a server was seen to have."""

    def __init__(self, server: Server) -> None:
        self.bytes = server.memory()
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._server.memory())

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def peak(server: Server) -> Iterator[Peak]:
    seen = Peak(server)
    try:
        yield seen
    finally:
        seen.close()


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("size", [SMALL, 1_000_000])
def test_a_client_that_never_reads_costs_nothing(size: int) -> None:
    count = (FLOOD_MB << 20) // size
    # With a storage on disk, as `relaykit serve` has it: with one in memory, what is said is in memory.
    with relay(storage="sqlite") as server, talker_of(server) as reader:
        session = reader.new_session()
        flood = reader.prompt_message(session, f"/stream {count} {size}")
        # What is there once, whatever is said: code, buffers, and a tail that is full.
        reader.turn_with_updates(reader.prompt_message(session, f"/stream {(12 << 20) // size} {size}"))
        before, started = server.memory(), time.monotonic()
        with peak(server) as without:
            assert reader.turn_with_updates(flood) == count + 1
            alone = time.monotonic() - started
        with talker_of(server) as deaf:
            deaf.ask("session/resume", {"sessionId": session, "cwd": "/", "mcpServers": []})
            with peak(server) as beside_it:
                started = time.monotonic()
                assert reader.turn_with_updates(flood) == count + 1  # nothing is missing, nothing comes twice
                beside = time.monotonic() - started
        growth, more = beside_it.bytes - before, beside_it.bytes - without.bytes
        memory = (
            f"{growth / 1e6:.1f} MB more than before, {more / 1e6:.1f} MB more than without a deaf client"
        )
        sys.stdout.write(f"{memory}; {alone:.1f} s without it, {beside:.1f} s beside it\n")
        assert more <= GROWTH
        assert growth <= GROWTH
        assert beside <= 2 * alone + 1  # machines are noisy
