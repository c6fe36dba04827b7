"""Factories of plugins that open something else than they should: no relay starts, and the error says whose they are.

So is said what a launcher returns that is no agent, which ends its session.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from relaykit.conversation import MemoryJournal
from relaykit.errors import PluginLoadError
from relaykit.hooks import Service, hookimpl
from relaykit.session import Cause, MemoryStore, Session
from relaykit.testing import FakeClock, FakeIds, FakeLauncher, RecordingHooks, open_test_relay

pytestmark = pytest.mark.anyio


class Offers:
    """Offers one factory as a storage, a launcher and a service."""

    def __init__(self, part: str, factory: Any) -> None:
        self.part = part
        self.factory = factory

    @hookimpl
    def relaykit_register_storages(self) -> dict[str, Any]:
        return {"mine": self.factory} if self.part == "storage" else {}

    @hookimpl
    def relaykit_register_launchers(self) -> dict[str, Any]:
        return {"mine": self.factory} if self.part == "launcher" else {}

    @hookimpl
    def relaykit_register_services(self) -> list[Service]:
        return [Service(name="mine", open=lambda _: self.factory())] if self.part == "service" else []


SETTINGS = {
    "storage": '[relay]\nstorage = "mine"\n',
    "launcher": '[agents.other]\ncommand = ["other"]\nlauncher = "mine"\n[relay]\ndefault_agent = "fake"\n',
    "service": "",
}

closed: list[str] = []


@asynccontextmanager
async def opens(value: object) -> AsyncIterator[object]:
    try:
        yield value
    finally:
        closed.append("closed")


async def forgets_to_be_a_context_manager() -> AsyncIterator[None]:
    yield


async def is_a_coroutine() -> None: ...


def fails() -> None:
    raise ZeroDivisionError("a bug")


MANAGER = "where an asynchronous context manager was asked for"
NO_MANAGERS: dict[str, tuple[Callable[[], object], str]] = {
    "None": (lambda: None, f"returned None, {MANAGER}"),
    "coroutine": (is_a_coroutine, f"returned <coroutine object .*, {MANAGER}"),
    "generator": (forgets_to_be_a_context_manager, f"returned <async_generator .*, {MANAGER}"),
    "raises": (fails, r"failed: ZeroDivisionError\('a bug'\)"),
}
WRONG: list[tuple[str, Callable[[], object], str]] = [
    *((part, factory, why) for part in SETTINGS for factory, why in NO_MANAGERS.values()),
    (
        "storage",
        lambda: nullcontext(None),
        "opened as None, where a pair of a Store and a Journal was asked for",
    ),
    (
        "storage",
        lambda: nullcontext((MemoryStore(), FakeClock())),
        "opened as .*FakeClock.*, where a Journal was asked for: it lacks append, close, delete, ended",
    ),
    ("launcher", lambda: nullcontext(None), "opened as None, where an AgentLauncher was asked for"),
    (
        "launcher",
        lambda: nullcontext(FakeLauncher),
        "opened as .*FakeLauncher'>, where an AgentLauncher was asked for: it is a class: return an instance of it",
    ),
]


async def test_no_relay_starts(tmp_path: Path) -> None:
    for part, factory, why in WRONG:
        with pytest.raises(PluginLoadError, match=rf"^plugin 'bad': its {part} 'mine' {why}"):
            async with open_test_relay(tmp_path, toml=SETTINGS[part], plugins={"bad": Offers(part, factory)}):
                pytest.fail("it started")


async def test_what_was_opened_is_closed(tmp_path: Path) -> None:
    closed.clear()
    bad = Offers("storage", lambda: opens((MemoryStore(), MemoryJournal)))
    with pytest.raises(PluginLoadError, match="where a Journal was asked for"):
        async with open_test_relay(tmp_path, toml=SETTINGS["storage"], plugins={"bad": bad}):
            pytest.fail("it started")
    assert closed == ["closed"]


async def test_a_launcher_that_returns_no_agent_ends_the_session(tmp_path: Path) -> None:
    class Nothing(FakeLauncher):
        async def launch(self, _: object, session: Session, *__: object, **___: object) -> Any:
            await anyio.lowlevel.checkpoint()
            return FakeIds() if session.agent_id == "odd" else None

    hooks = RecordingHooks()
    async with open_test_relay(tmp_path, launcher=Nothing(), hooks=hooks) as relay:
        for role, what in (("none", "None"), ("odd", ".*FakeIds.*")):
            session = await relay.create(role)
            with anyio.fail_after(20):
                await relay.wait_ended(session.id)
            last = hooks.heard_of(session.id)[-1].after
            assert last.cause is Cause.SPAWN_FAILED
            assert re.match(
                f"agent 'fake': the launcher 'fake' returned {what}, where an Agent was asked for",
                last.reason or "",
            )
