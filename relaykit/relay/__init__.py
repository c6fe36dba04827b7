"""Everything together: a relay that runs sessions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relaykit.relay.access import Access, Role
    from relaykit.relay.live_session import LiveSession
    from relaykit.relay.opening import open_relay
    from relaykit.relay.relay import Relay
    from relaykit.relay.restricted import RestrictedRelay

__all__ = ["Access", "LiveSession", "Relay", "RestrictedRelay", "Role", "open_relay"]

_HOMES = {
    "Access": "access",
    "LiveSession": "live_session",
    "Relay": "relay",
    "RestrictedRelay": "restricted",
    "Role": "access",
    "open_relay": "opening",
}


def __getattr__(name: str) -> Any:
    # Imported when it is used: `relaykit plugins` reads `relaykit.relay.running` and must answer at once.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
