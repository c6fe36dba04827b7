"""Rendering: entries as messages of a protocol, made once for all clients of it that follow a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from relaykit.relay import LiveSession

_CACHE_CHARACTERS = 1024 * 1024


class Rendering:
    """What the renderers of all protocols share: while several clients follow, the newest messages are kept.

    :param followers: how many clients use it now.
    """

    def __init__(self) -> None:
        self.followers = 0
        self._cache: dict[int, Sequence[str]] = {}
        self._cached = 0  # characters

    def kept(self, seq: int) -> Sequence[str] | None:
        """Return the messages of an entry that was rendered for somebody else, or None."""
        return self._cache.get(seq)

    def keep(self, seq: int, messages: Sequence[str]) -> None:
        """Keep an entry's messages, if there is anybody else who would want them."""
        if self.followers < 2:  # noqa: PLR2004 -- there is nobody else
            return
        self._cache[seq] = messages
        self._cached += sum(map(len, messages))
        while self._cached > _CACHE_CHARACTERS and self._cache:
            oldest = next(iter(self._cache))
            self._cached -= sum(map(len, self._cache.pop(oldest)))


R = TypeVar("R", bound=Rendering)


class PerSession(Generic[R]):
    """The renderers of one protocol: one for all clients that follow a session.

    :param make: makes the renderer of a session.
    """

    def __init__(self, make: Callable[[LiveSession], R]) -> None:
        self._make = make
        self._renderers: dict[str, R] = {}

    @contextmanager
    def of(self, live: LiveSession) -> Iterator[R]:
        """Give the renderer of a session for as long as the block lasts."""
        renderer = self._renderers.get(live.id)
        if renderer is None:
            renderer = self._renderers[live.id] = self._make(live)
        renderer.followers += 1
        try:
            yield renderer
        finally:
            renderer.followers -= 1
            if not renderer.followers:
                del self._renderers[live.id]
