"""For the tests of plugins: fakes, a whole relay in the test's process, and the contracts that parts must pass.

Fixtures come with ``pytest_plugins = "relaykit.testing.fixtures"``. The contracts and the fixtures import pytest, and
so are imported when they are asked for; nothing else in here does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from relaykit.testing.fakes import FakeClock, FakeConnection, FakeIds, RecordingCleaner, RecordingHooks
from relaykit.testing.hopping_store import HoppingStore
from relaykit.testing.interruption import Attempt, Interruption, interruptions
from relaykit.testing.sessions import make_session, next_version
from relaykit.testing.transitions import assert_transitions

if TYPE_CHECKING:
    from relaykit.testing.cleaner_contract import Acquire, CleanerContract, IsReleased
    from relaykit.testing.fake_agent import FakeAgent, FakeLauncher, FakeTurn
    from relaykit.testing.journal_contract import JournalContract
    from relaykit.testing.launcher_contract import IsGone, LauncherContract
    from relaykit.testing.relays import installed_plugin, open_test_relay
    from relaykit.testing.storage_contract import StorageContract
    from relaykit.testing.store_contract import StoreContract
    from relaykit.testing.talk import Answer, Talk, open_talk
    from relaykit.testing.workspace_contract import WorkspaceContract

__all__ = [
    "Acquire",
    "Answer",
    "Attempt",
    "CleanerContract",
    "FakeAgent",
    "FakeClock",
    "FakeConnection",
    "FakeIds",
    "FakeLauncher",
    "FakeTurn",
    "HoppingStore",
    "Interruption",
    "IsGone",
    "IsReleased",
    "JournalContract",
    "LauncherContract",
    "RecordingCleaner",
    "RecordingHooks",
    "StorageContract",
    "StoreContract",
    "Talk",
    "WorkspaceContract",
    "assert_transitions",
    "installed_plugin",
    "interruptions",
    "make_session",
    "next_version",
    "open_talk",
    "open_test_relay",
]

_HOMES = {
    "Acquire": "cleaner_contract",
    "Answer": "talk",
    "CleanerContract": "cleaner_contract",
    "FakeAgent": "fake_agent",
    "FakeLauncher": "fake_agent",
    "FakeTurn": "fake_agent",
    "IsGone": "launcher_contract",
    "IsReleased": "cleaner_contract",
    "JournalContract": "journal_contract",
    "LauncherContract": "launcher_contract",
    "StorageContract": "storage_contract",
    "StoreContract": "store_contract",
    "Talk": "talk",
    "WorkspaceContract": "workspace_contract",
    "installed_plugin": "relays",
    "open_talk": "talk",
    "open_test_relay": "relays",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
