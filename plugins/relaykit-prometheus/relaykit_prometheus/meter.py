"""PrometheusMeter: relaykit's figures as Prometheus metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Histogram

from relaykit.meter import FIGURES, Figure, FigureKind, Values
from relaykit_prometheus.gauge import WatchedGauge

logger = logging.getLogger(__name__)

Labels = tuple[tuple[str, str], ...]
Family = Counter | Histogram | WatchedGauge

BUCKETS = {
    "seconds": (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60),
    "bytes": (64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 33554432),
}
"""Of histograms that name none, by unit: from one call of a hook to an agent's start, and up to the largest frame."""


class PrometheusMeter:
    """A `Meter` in front of a registry: ``relaykit_<name>_total`` or ``relaykit_<name>_<unit>``.

    Relaykit's own figures are registered at once, those of plugins when they are expected, or at their first use;
    each combination of labels whose values are all known begins at zero. A figure that cannot be taken (a name
    that is in use, a wrong label, a negative amount) is logged once, and nothing is raised.

    :raises ValueError: the registry has metrics of these names already.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._families: dict[Figure, Family] = {}
        # Looking up a child in its family takes three times as long as counting.
        self._counters: dict[tuple[Figure, Labels], Counter] = {}
        self._histograms: dict[tuple[Figure, Labels], Histogram] = {}
        self._reported: set[str] = set()
        for figure in FIGURES:
            self._register(figure)

    @property
    def figures(self) -> Sequence[Figure]:
        """Those that are known so far, in the order in which they came."""
        return tuple(self._families)

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Add `amount` to a counter."""
        try:
            key = (figure, tuple(labels.items()))
            child = self._counters.get(key)
            if child is None:
                family = self._family(figure)
                if not isinstance(family, Counter):
                    raise TypeError(f"{figure.name} is a {figure.kind}, and is not counted")
                child = self._counters[key] = family.labels(**labels) if labels else family
            child.inc(amount)
        except Exception as error:  # noqa: BLE001 -- a figure is never worth what it counts; it is logged
            self._report(figure, error)

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Record one value of a histogram."""
        try:
            key = (figure, tuple(labels.items()))
            child = self._histograms.get(key)
            if child is None:
                family = self._family(figure)
                if not isinstance(family, Histogram):
                    raise TypeError(f"{figure.name} is a {figure.kind}, and is not observed")
                child = self._histograms[key] = family.labels(**labels) if labels else family
            child.observe(value)
        except Exception as error:  # noqa: BLE001 -- as above
            self._report(figure, error)

    def expect(self, figure: Figure, /, **labels: str) -> None:
        """Show a counter or a histogram at zero, for these labels and all known values of the others."""
        try:
            family = self._family(figure)
            if labels and not isinstance(family, WatchedGauge):
                known = {name: (value,) for name, value in labels.items()}
                for values in product(*({**figure.labels, **known}.values())):
                    family.labels(*values)
        except Exception as error:  # noqa: BLE001 -- as above
            self._report(figure, error)

    def watch(self, figure: Figure, read: Callable[[], Values], /) -> None:
        """Ask `read` for a gauge's values at each scrape."""
        try:
            family = self._family(figure)
            if not isinstance(family, WatchedGauge):
                raise TypeError(f"{figure.name} is a {figure.kind}, and is not looked at")
            family.add(read)
        except Exception as error:  # noqa: BLE001 -- as above
            self._report(figure, error)

    def _family(self, figure: Figure) -> Family:
        return self._families.get(figure) or self._register(figure)

    def _register(self, figure: Figure) -> Family:
        family = self._families[figure] = self._made(figure)
        if figure.labels and not isinstance(family, WatchedGauge):
            for values in product(*figure.labels.values()):  # none, if a label's values are not known yet
                family.labels(*values)
        return family

    def _made(self, figure: Figure) -> Family:
        names, registry = tuple(figure.labels), self._registry
        if figure.kind is FigureKind.GAUGE:
            return WatchedGauge(name_of(figure), figure, registry)
        name = f"relaykit_{figure.name}"
        if figure.kind is FigureKind.COUNTER:
            return Counter(name, figure.help, names, unit=figure.unit, registry=registry)
        buckets = buckets_of(figure)
        return Histogram(name, figure.help, names, unit=figure.unit, registry=registry, buckets=buckets)

    def _report(self, figure: Figure, error: Exception) -> None:
        if figure.name not in self._reported:
            self._reported.add(figure.name)
            logger.error(
                "the figure %r could not be taken, and this is not logged again", figure.name, exc_info=error
            )


def name_of(figure: Figure) -> str:
    """Return what the figure is called in a scrape; a histogram's series add ``_bucket``, ``_sum`` and ``_count``."""
    unit = f"_{figure.unit}" if figure.unit else ""
    total = "_total" if figure.kind is FigureKind.COUNTER else ""
    return f"relaykit_{figure.name}{unit}{total}"


def buckets_of(figure: Figure) -> Sequence[float]:
    """Return the upper bounds of a histogram's buckets."""
    return figure.buckets or BUCKETS.get(figure.unit, Histogram.DEFAULT_BUCKETS)
