"""relaykit: a plugin-based relay kit for coding agents that speak ACP.

The parts, from the bottom up: `relaykit.session` (the life of one session), `relaykit.agent` and
`relaykit.conversation` (who works, and what is said), `relaykit.hooks` (plugins), `relaykit.relay`
(everything together), `relaykit.commands` (the command line). `relaykit.errors` draws all errors.
"""
