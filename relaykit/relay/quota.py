"""Quota: how many sessions there may be at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relaykit.errors import SessionLimit


class Quota:
    """Counts sessions from before they are created until they have ended. For one relay, on its loop.

    :param most: in all; 0 for any number.
    :param most_per_owner: of each owner; 0 for any number.
    """

    def __init__(self, *, most: int, most_per_owner: int) -> None:
        self._most = most
        self._most_per_owner = most_per_owner
        self._owners: dict[str, int] = {}

    def check(self, owner: str) -> None:
        """Check whether there is room for one more.

        :raises SessionLimit: there is not.
        """
        if self._most_per_owner and self._owners.get(owner, 0) >= self._most_per_owner:
            raise SessionLimit(self._most_per_owner, owner=owner)
        if self._most and sum(self._owners.values()) >= self._most:
            raise SessionLimit(self._most)

    def take(self, owner: str) -> None:
        """Count a session, whether there is room or not: it is there."""
        self._owners[owner] = self._owners.get(owner, 0) + 1

    def give_back(self, owner: str) -> None:
        """Count it no more."""
        self._owners[owner] -= 1
        if not self._owners[owner]:
            del self._owners[owner]

    @contextmanager
    def taken(self, owner: str) -> Iterator[None]:
        """Count a session for as long as the block lasts: while it is created.

        :raises SessionLimit: there is no room for it.
        """
        self.check(owner)
        self.take(owner)
        try:
            yield
        finally:
            self.give_back(owner)
