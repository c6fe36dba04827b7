"""A metrics or tracing plugin that raises, hangs or is slow changes nothing of what sessions come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.hooks import hookimpl
from relaykit.meter import Figure, Meter, Values
from relaykit.relay import Relay
from support.relays import PATIENCE, active_session, ended, running_relay

pytestmark = pytest.mark.anyio


class BadMeter:
    """Does the same in each of its methods."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.calls = 0

    def count(self, _figure: Figure, /, amount: float = 1, **_labels: str) -> None:
        del amount
        self._do()

    def observe(self, _figure: Figure, _value: float, /, **_labels: str) -> None:
        self._do()

    def expect(self, _figure: Figure, /, **_labels: str) -> None:
        self._do()

    def watch(self, _figure: Figure, _read: Callable[[], Values], /) -> None:
        self._do()

    def _do(self) -> None:
        self.calls += 1
        self._act()


def fail() -> None:
    raise RuntimeError("as it should")


def dawdle() -> None:
    time.sleep(0.002)


class Measuring:
    """A plugin with such a meter."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.meter = BadMeter(act)

    @hookimpl
    def relaykit_register_meter(self) -> Meter:
        return self.meter

    @property
    def calls(self) -> int:
        return self.meter.calls


class Hearing:
    """A plugin that does the same whatever it hears."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self.calls = 0

    async def _hear(self) -> None:
        self.calls += 1
        await self._act()

    @hookimpl
    async def relaykit_on_transition(self) -> None:
        await self._hear()

    @hookimpl
    async def relaykit_on_turn_started(self) -> None:
        await self._hear()

    @hookimpl
    async def relaykit_on_turn_ended(self) -> None:
        await self._hear()

    @hookimpl
    async def relaykit_on_question_asked(self) -> None:
        await self._hear()

    @hookimpl
    async def relaykit_on_question_answered(self) -> None:
        await self._hear()

    @hookimpl
    async def relaykit_on_client_attached(self) -> None:
        await self._hear()

    @hookimpl
    async def relaykit_on_entries(self) -> None:
        await self._hear()


async def raise_it() -> None:
    fail()


QUICK: Mapping[str, Any] = {"RELAY__HOOK_TIMEOUT": "0.1", "RELAY__ON_CRASH": "end"}

BAD: Mapping[str, Callable[[], Measuring | Hearing]] = {
    "a meter that raises": lambda: Measuring(fail),
    "a meter that is slow": lambda: Measuring(dawdle),
    "hooks that raise": lambda: Hearing(raise_it),
    "hooks that hang": lambda: Hearing(anyio.sleep_forever),
    "hooks that are slow": lambda: Hearing(lambda: anyio.sleep(0.02)),
}


async def outcome(relay: Relay) -> tuple[list[str], list[str]]:
    """Return what the client of a session saw, and how this one and another, whose agent crashed, ended."""
    async with active_session(relay) as client:
        await client.say("/stream 50", "t1")
        await client.until_turn_end("t1")
        await client.say("/ask", "t2")
        await client.answer((await client.until_asked()).frame.ref)
        await client.until_turn_end("t2")
        async with active_session(relay, "other") as other:
            await other.say("/crash", "t1")
            await other.until_the_end()
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        await ended(relay, client.session_id)
        ends = [await relay.find(session_id) for session_id in (client.session_id, other.session_id)]
        return client.told, [f"{session.state} {session.cause}" for session in ends]


async def test_sessions_end_as_they_would_without(tmp_path: Path) -> None:
    with anyio.fail_after(3 * PATIENCE):
        async with running_relay(tmp_path, **QUICK) as relay:
            expected = await outcome(relay)
        assert expected[1] == ["CLEANED REQUESTED", "CLEANED AGENT_EXITED"]
        for name, make in BAD.items():
            plugin = make()
            async with running_relay(tmp_path, plugins={"bad": plugin}, **QUICK) as relay:
                assert await outcome(relay) == expected, name
            assert plugin.calls > 5, name
