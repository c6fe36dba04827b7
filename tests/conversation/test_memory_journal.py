"""MemoryJournal passes the contract of journals."""

from __future__ import annotations

import pytest

from relaykit.conversation import Journal, MemoryJournal
from relaykit.testing import JournalContract


class TestMemoryJournal(JournalContract):
    @pytest.fixture
    def journal(self) -> Journal:
        return MemoryJournal()
