"""Prometheus metrics for relaykit."""
