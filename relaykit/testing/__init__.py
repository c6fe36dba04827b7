"""Fakes, and helpers for proofs, for the authors of plugins. Nothing in here imports pytest.

The contract suites that stores and journals must pass are `relaykit.testing.store_contract` and
`relaykit.testing.journal_contract`; these modules do import pytest, so they are not imported from here.
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
