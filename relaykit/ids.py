"""Identifiers, injected: tests give their own."""

from __future__ import annotations

import os
from typing import Protocol


class IdGenerator(Protocol):
    """Where ids come from."""

    def new_id(self) -> str:
        """Return an id never returned before: ASCII letters, digits, ``-`` and ``_``. Synchronous, any thread."""
        ...


class SystemIds:
    """128 random bits, written as 32 hexadecimal digits."""

    def new_id(self) -> str:
        """Return 128 random bits, as hexadecimal digits."""
        return os.urandom(16).hex()
