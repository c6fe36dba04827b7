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

    :param failures: how often nobody got it.
    """

    failures: int = 0
    _lock: anyio.Lock = field(default_factory=anyio.Lock)
    _answer: T | None = None
    _key: object = None
    _error: Exception | None = None

    async def get(self, ask: Callable[[], Awaitable[T]], *, key: object = None, seen: int | None = None) -> T:
        """Return the answer.

        :param ask: what gets it: the same for all.
        :param key: what the answer depends on: one that was got for another key is not kept.
        :param seen: `failures` when the caller came, if that was before this call.
        :raises Exception: what `ask` raised.
        """
        seen = self.failures if seen is None else seen
        async with self._lock:
            if self._answer is not None and self._key == key:
                return self._answer
            if self._error is not None and self.failures != seen:
                raise self._error
            try:
                self._answer = await ask()
            except Exception as error:
                self._error = error
                self.failures += 1
                raise
            self._key = key
            return self._answer
