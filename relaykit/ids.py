"""Identifiers, injected: tests give their own."""

from __future__ import annotations

import uuid
from typing import Protocol


class IdGenerator(Protocol):
    """Where ids come from."""

    def new_id(self) -> str:
        """Return an id never returned before: ASCII letters, digits, ``-`` and ``_``. Synchronous, any thread."""
        ...


class SystemIds:
    """Random UUIDs, written as 32 hexadecimal digits."""

    def new_id(self) -> str:
        """Return 122 random bits, as hexadecimal digits."""
        return uuid.uuid4().hex  # noqa: TID251 -- the one place
