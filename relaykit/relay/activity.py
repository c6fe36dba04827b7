"""Activity: once a second, what sessions did is written for all of them in one batch."""

from __future__ import annotations

import logging

import anyio

from relaykit.errors import StoreError
from relaykit.session.manager import Manager

logger = logging.getLogger(__name__)

_INTERVAL = 1.0
"""Seconds. What a crash can lose of `Session.activity`."""


async def flush_activity(manager: Manager) -> None:
    """Flush until cancelled. A store that fails is reported, and asked again a second later."""
    while True:
        await anyio.sleep(_INTERVAL)
        try:
            await manager.flush_activity()
        except StoreError as error:
            logger.warning("activity could not be written, it is kept for later: %s", error)
