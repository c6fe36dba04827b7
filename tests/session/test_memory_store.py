"""MemoryStore, alone and behind a hop, against the contract of every store."""

from __future__ import annotations

import pytest

from relaykit.session import MemoryStore, Store
from relaykit.testing import HoppingStore, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestHoppingStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return HoppingStore(MemoryStore())
