"""``relaykit chat`` and ``relaykit run``: clients of ``/acp`` for people, and for scripts."""
