"""Queue: the prompts that wait for their turn, as clients are shown them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relaykit.relay import LiveSession


def view_queue(live: LiveSession, client_id: str) -> Mapping[str, Any]:
    """Return the turn that runs, and who waits behind it, for one client.

    :param client_id: whose own prompts are marked.
    """
    waiting = [
        {
            "turn": prompt.turn,
            "place": place,
            "client": prompt.client_id,
            "own": prompt.client_id == client_id,
        }
        for place, prompt in enumerate(live.queue.turns.waiting, 1)
    ]
    return {"turn": live.turn or None, "waiting": waiting}
