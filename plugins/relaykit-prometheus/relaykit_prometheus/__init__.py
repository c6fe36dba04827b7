"""Prometheus metrics for relaykit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from relaykit.hooks.registration import Command, PluginContext, Route, Service
    from relaykit.meter import Meter
    from relaykit_prometheus.metrics import Metrics

__all__ = ["PrometheusPlugin"]


class PrometheusPlugin:
    """The metrics of one relay, and the hooks that feed and show them. Each relay needs an instance of its own.

    :param registry: where the metrics go; an application that has one passes it, and registers itself what it
        wants to know of the process. By default a registry of this plugin's own, with the figures of process
        and interpreter.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry
        self._metrics: Metrics | None = None

    @property
    def metrics(self) -> Metrics:
        """The metrics, made when they are first wanted: a plugin that is only listed loads no prometheus_client."""
        if self._metrics is None:
            from relaykit_prometheus.metrics import Metrics

            self._metrics = Metrics(self._registry)
        return self._metrics

    @hookimpl
    def relaykit_register_settings(self) -> type:
        """Declare ``[plugins.prometheus]``."""
        from relaykit_prometheus.settings import PrometheusSettings

        return PrometheusSettings

    @hookimpl
    def relaykit_register_commands(self) -> Sequence[Command]:
        """Add ``relaykit metrics``."""
        from relaykit_prometheus.command import METRICS

        return [METRICS]

    @hookimpl
    def relaykit_register_meter(self) -> Meter:
        """Take every figure that relaykit and its plugins count, measure or let be looked at."""
        return self.metrics.meter

    @hookimpl
    def relaykit_register_routes(self, context: PluginContext) -> Sequence[Route]:
        """Offer ``/metrics``."""
        from relaykit.hooks.registration import Route
        from relaykit_prometheus.scrape import scrape_app

        app = scrape_app(self.metrics.registry)
        return [Route(path="/metrics", app=app, public=context.settings.public_metrics)]

    @hookimpl
    def relaykit_register_services(self, context: PluginContext) -> Sequence[Service]:
        """Listen on a port of its own, if it is to have one."""
        settings = context.settings
        if settings.port is None:
            return []
        from functools import partial

        from relaykit.hooks.registration import Service
        from relaykit_prometheus.scrape import scrape_app
        from relaykit_prometheus.server import serve_metrics

        serve = partial(serve_metrics, app=scrape_app(self.metrics.registry), settings=settings)
        return [Service(name="prometheus", open=serve, listens=True)]
