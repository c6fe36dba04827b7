"""Locator: where a session lives. The contract, and the answer of a relay that is alone.

It is the seam for several nodes: whoever is asked for a session asks here first, and nothing else knows that there
may be other places. With several nodes it would look into what they share; what it finds may be out of date at once,
so that the node that is asked may still say that the session is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Where:
    """A place.

    :param node: the name of the relay, as in ``Session.node``.
    :param here: it is this one.
    """

    node: str
    here: bool


class Locator(Protocol):
    """Finds sessions. For every client that comes: an answer from memory is best."""

    async def locate(self, session_id: str, /) -> Where:
        """Return where a session lives, or would be looked for: one that nobody knows is said to be here.

        :raises StoreError: what the nodes share cannot be asked.
        """
        ...


class OnlyHere:
    """A `Locator` for one node.

    :param node: its name.
    """

    def __init__(self, node: str) -> None:
        self._where = Where(node, here=True)

    async def locate(self, _session_id: str, /) -> Where:
        """Return this node."""
        return self._where
