"""Fakes, helpers for proofs, and the contracts that stores and journals must pass, for the authors of plugins.

The contracts import pytest, and so are imported when they are asked for; nothing else in here does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from relaykit.testing.fakes import FakeClock, FakeConnection, FakeIds, RecordingCleaner, RecordingHooks
from relaykit.testing.hopping_store import HoppingStore
from relaykit.testing.interruption import Interruption

if TYPE_CHECKING:
    from relaykit.testing.journal_contract import JournalContract
    from relaykit.testing.store_contract import StoreContract

__all__ = [
    "FakeClock",
    "FakeConnection",
    "FakeIds",
    "HoppingStore",
    "Interruption",
    "JournalContract",
    "RecordingCleaner",
    "RecordingHooks",
    "StoreContract",
]

_CONTRACTS = {"JournalContract": "journal_contract", "StoreContract": "store_contract"}


def __getattr__(name: str) -> Any:
    if name not in _CONTRACTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_CONTRACTS[name]}"), name)
