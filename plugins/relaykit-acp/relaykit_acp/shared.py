"""An answer that many want and that is asked for once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


@dataclass(slots=True)
class Shared(Generic[T]):
    """Asked for by the first who wants it, and kept. Who came meanwhile shares a failure; the next asks anew.

    If the first is cancelled, one of those who wait asks.
    """

    _lock: anyio.Lock = field(default_factory=anyio.Lock)
    _failures: int = 0
    _answer: T | None = None
    _error: Exception | None = None

    async def get(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer.

        :param ask: what gets it: the same for all.
        :raises Exception: what `ask` raised.
        """
        seen = self._failures
        async with self._lock:
            if self._answer is not None:
                return self._answer
            if self._error is not None and self._failures != seen:
                raise self._error
            try:
                self._answer = await ask()
            except Exception as error:
                self._error = error
                self._failures += 1
                raise
            return self._answer
