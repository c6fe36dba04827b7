"""Fakes, and helpers for proofs, for the authors of plugins. Nothing in here imports pytest.

The contract suite that a store must pass is `relaykit.testing.store_contract`; that module alone does
import pytest, so it is not imported from here.
"""

from relaykit.testing.fakes import FakeClock, FakeConnection, FakeIds, RecordingCleaner, RecordingHooks
from relaykit.testing.hopping_store import HoppingStore
from relaykit.testing.interruption import Interruption

__all__ = [
    "FakeClock",
    "FakeConnection",
    "FakeIds",
    "HoppingStore",
    "Interruption",
    "RecordingCleaner",
    "RecordingHooks",
]
