"""What is written is what prometheus_client writes, to the last byte."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from relaykit.meter import AGENT_SPAWN, HOOK_FAILURES, MESSAGES, SESSIONS
from relaykit_prometheus.exposition import encode
from relaykit_prometheus.metrics import Metrics


def theirs(collector: Collector, *, escaping: str = "underscores") -> bytes:
    written: bytes = generate_latest(collector, escaping=escaping)  # type: ignore[no-untyped-call]  # theirs
    return written


def test_all_that_is_ordinary() -> None:
    metrics = Metrics(CollectorRegistry())
    meter = metrics.meter
    meter.expect(HOOK_FAILURES, plugin='quo"ted', hook="back\\slash\nline")
    meter.observe(AGENT_SPAWN, 0.3, agent="täglich")
    meter.observe(AGENT_SPAWN, 1e9, agent="täglich")
    meter.count(MESSAGES, 1e21, direction="to_agent")
    meter.watch(SESSIONS, lambda: {("ACTIVE",): 3})
    assert encode(metrics.registry.collect(), theirs) == theirs(metrics.registry)


class Unordinary(Collector):
    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("timed", 'With\na timestamp and "quotes".', labels=["a"])
        family.add_metric(["b"], float("nan"), timestamp=12.5)
        yield family


@pytest.mark.parametrize("escaping", ["underscores", "allow-utf-8"])
def test_all_that_is_not(escaping: str) -> None:
    registry = CollectorRegistry()
    registry.register(Unordinary())
    Gauge("with.dots", "A name that is not ordinary.", registry=registry).set(float("inf"))
    Gauge("labelled", "A label that is not.", ["wéird"], registry=registry).labels("x").set(1)
    Counter("seen", "With an exemplar.", registry=registry).inc(1, {"trace_id": "abc"})
    Histogram("unit", "With a unit.", unit="seconds", registry=registry).observe(0.2)

    def escaped(collector: Collector) -> bytes:
        return theirs(collector, escaping=escaping)

    assert encode(registry.collect(), escaped) == escaped(registry)
