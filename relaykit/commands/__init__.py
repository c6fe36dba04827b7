"""The relaykit command."""
