"""``relaykit chat``: a client of the relay protocol for people, and for scripts."""
