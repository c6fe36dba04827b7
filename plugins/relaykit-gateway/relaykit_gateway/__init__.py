"""HTTP and WebSocket for relaykit: /ws, /api, /healthz, and a terminal client."""
