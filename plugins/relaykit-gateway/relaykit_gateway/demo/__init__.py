"""``relaykit demo``: one session from its first transition to its last, for real, in a scratch repository."""
