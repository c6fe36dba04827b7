"""Launches and stops agents that speak ACP, for relaykit."""
