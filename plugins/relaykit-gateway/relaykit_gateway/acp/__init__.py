"""``/acp``: the Agent Client Protocol over WebSocket, as its remote transport has it.

One JSON-RPC 2.0 message is one text frame. What agents and clients say to each other passes through as it came:
only the envelope is looked at, and ids, session ids and our part of ``_meta`` are put in their places.
"""
