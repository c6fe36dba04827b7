"""A gauge that is looked at when it is scraped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import product

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relaykit.meter import Figure, Values

logger = logging.getLogger(__name__)


class WatchedGauge(Collector):
    """Asks its readers at each scrape, and adds up what they say. One that fails is logged once, and left out.

    :raises ValueError: the registry has a metric of this name already.
    """

    def __init__(self, name: str, figure: Figure, registry: CollectorRegistry) -> None:
        self._name = name
        self._figure = figure
        self._zero = dict.fromkeys(product(*figure.labels.values()), 0.0)
        self._readers: list[Callable[[], Values]] = []
        self._reported = False
        registry.register(self)

    def add(self, read: Callable[[], Values]) -> None:
        """Ask this reader too, from now on."""
        self._readers.append(read)

    def describe(self) -> Iterable[Metric]:
        """Tell the registry which name this takes, without asking anybody."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """Ask the readers."""
        family = self._family()
        try:
            for labels, value in self._read().items():
                family.add_metric(labels, value)
        except Exception:  # one gauge less, and not the whole scrape
            if not self._reported:
                self._reported = True
                logger.exception("the gauge %r cannot be read, and this is not logged again", self._name)
        return [family]

    def _read(self) -> Values:
        values = dict(self._zero)
        for read in self._readers:
            for labels, value in read().items():
                values[labels] = values.get(labels, 0.0) + value
        return values

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self._name, self._figure.help, labels=tuple(self._figure.labels))
