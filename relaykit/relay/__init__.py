"""Everything together: a relay that runs sessions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relaykit.relay.live_session import LiveSession
    from relaykit.relay.opening import open_relay
    from relaykit.relay.relay import Relay

__all__ = ["LiveSession", "Relay", "open_relay"]

_HOMES = {"LiveSession": "live_session", "Relay": "relay", "open_relay": "opening"}


def __getattr__(name: str) -> Any:
    # Imported when it is used: `relaykit plugins` reads `relaykit.relay.running` and must answer at once.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
