"""Metrics: all that one relay shows to Prometheus."""

from __future__ import annotations

from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, PlatformCollector, ProcessCollector

from relaykit_prometheus.meter import PrometheusMeter

BUILD_INFO = ("relaykit_build_info", "The version of relaykit; always 1.", "version")
"""Name, help and label."""


class Metrics:
    """The metrics of one relay, in one registry.

    :param registry: without one, a new registry that also shows the process and the interpreter.
    :raises ValueError: the registry has metrics of these names already: those of another relay.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
        self.registry = registry
        self.meter = PrometheusMeter(registry)
        name, help_, label = BUILD_INFO
        Gauge(name, help_, [label], registry=registry).labels(metadata.version("relaykit")).set(1)
