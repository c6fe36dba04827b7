"""Interruption: cancel a call exactly where it waits for the n-th time; and interruptions, to try many places."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

T = TypeVar("T")


class Interruption(Awaitable[T], Generic[T]):
    """A call that is interrupted at its n-th suspension: await it in place of the call.

    To prove that a call is safe to cancel everywhere, count `at` up from 1 until `happened` stays False::

        with anyio.CancelScope() as scope:
            interruption = Interruption(store.save(session, expected_version=1), at=n, cancel=scope.cancel)
            await interruption

    Works under any event loop, because it only counts how often the coroutine yields to it.

    :param call: awaited once, in the task that awaits this.
    :param at: 1 for the first suspension.
    :param cancel: called in that task, just before it is suspended; must not wait.
    """

    def __init__(self, call: Coroutine[Any, Any, T], *, at: int, cancel: Callable[[], object]) -> None:
        self._call = call
        self._at = at
        self._cancel = cancel
        self.suspensions = 0
        """How often the call was suspended so far."""

    @property
    def happened(self) -> bool:
        """Whether the call got as far as the suspension at which it was to be cancelled."""
        return self.suspensions >= self._at

    def __await__(self) -> Generator[Any, Any, T]:
        resume: Callable[[], Any] = partial(self._call.send, None)
        while True:
            try:
                waiting_for = resume()
            except StopIteration as stop:
                result: T = stop.value
                return result
            self.suspensions += 1
            if self.suspensions == self._at:
                self._cancel()
            try:
                resume = partial(self._call.send, (yield waiting_for))
            except GeneratorExit:
                self._call.close()
                raise
            except BaseException as error:  # noqa: BLE001 -- the call's own to handle: it is raised there
                resume = partial(self._call.throw, error)


class Attempt:
    """One call of those that `interruptions` has tried."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.happened = False
        """Whether the call got as far as where it was to be cut off. It may have ended all the same."""

    async def __call__(self, call: Coroutine[Any, Any, T]) -> T | None:
        """Await the call, cut off at its n-th suspension; return what it returns, or None if it was cancelled."""
        with anyio.CancelScope() as scope:
            interruption = Interruption(call, at=self.at, cancel=scope.cancel)
            try:
                return await interruption
            finally:
                self.happened = interruption.happened
        return None


def interruptions() -> Iterator[Attempt]:
    """Yield attempts to make one call each, cut off ever later (at 1, 2, 4, 8 …), until one is through before that.

    ::

        for attempt in interruptions():
            await attempt(workspace.prepare(session, record, say))
            assert nothing_is_left()
    """
    at = 1
    while True:
        attempt = Attempt(at)
        yield attempt
        if not attempt.happened:
            return
        at *= 2
