"""Interruption: cancel a call exactly where it waits for the n-th time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

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
