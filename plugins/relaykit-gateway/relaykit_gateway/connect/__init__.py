"""``relaykit connect``: a relay, as an agent that an editor starts and talks to by its standard streams.

One thread and ``poll``, without an event loop: an editor waits for its agent to start, and importing one
would take longer than all the rest. What is decided stands in `bridge`, which does no input or output.
"""
