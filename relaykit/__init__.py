"""relaykit."""
