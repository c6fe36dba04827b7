"""HTTP and WebSocket for relaykit: /ws, /acp, /api, /healthz, and commands that use them.

Its hooks are in `relaykit_gateway.plugin`: ``relaykit connect`` imports this package without them, and starts
sooner.
"""
