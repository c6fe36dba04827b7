"""Everything together: a relay that runs sessions."""

from relaykit.relay.live_session import LiveSession
from relaykit.relay.opening import open_relay
from relaykit.relay.relay import Relay

__all__ = ["LiveSession", "Relay", "open_relay"]
