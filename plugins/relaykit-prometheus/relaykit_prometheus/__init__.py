"""Prometheus metrics for relaykit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from relaykit.hooks.registration import PluginContext, Route
    from relaykit.meter import Meter
    from relaykit.session import Transition
    from relaykit_prometheus.metrics import Metrics

__all__ = ["PrometheusPlugin"]


class PrometheusPlugin:
    """The metrics of one relay, and the hooks that feed them. Each relay needs an instance of its own.

    :param registry: where the metrics go; an application that has one passes it, and registers itself what it
        wants to know of the process. By default a registry of this plugin's own, with the figures of process
        and interpreter.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry
        self._metrics: Metrics | None = None

    @hookimpl
    def relaykit_register_settings(self) -> type:
        """Declare ``[plugins.prometheus]``."""
        from relaykit_prometheus.settings import PrometheusSettings

        return PrometheusSettings

    @hookimpl
    def relaykit_register_meter(self) -> Meter:
        """Take every figure that relaykit and its plugins count or measure."""
        return self._get_metrics().meter

    @hookimpl
    def relaykit_register_routes(self, context: PluginContext) -> Sequence[Route]:
        """Offer ``/metrics``."""
        from relaykit.hooks.registration import Route
        from relaykit_prometheus.scrape import scrape_app

        app = scrape_app(self._get_metrics().registry)
        return [Route(path="/metrics", app=app, public=context.settings.public_metrics)]

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        """Keep count of the sessions in each state, and of how long they lived."""
        self._get_metrics().sessions.follow(transition)

    def _get_metrics(self) -> Metrics:
        # Made by the hook that comes first: a plugin that is only listed loads no prometheus_client.
        if self._metrics is None:
            from relaykit_prometheus.metrics import Metrics

            self._metrics = Metrics(self._registry)
        return self._metrics
