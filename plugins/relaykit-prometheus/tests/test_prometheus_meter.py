from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry, Gauge

from relaykit.meter import FIGURES, MESSAGES, Figure, FigureKind
from relaykit_prometheus.meter import PrometheusMeter

SPINS = Figure("wheel_spins", FigureKind.COUNTER, "Spins.", labels={"way": ("left", "right")})
TURNS = Figure("wheel_turns", FigureKind.COUNTER, "Turns.")
SENT = Figure("wheel_sent", FigureKind.COUNTER, "Sent.", unit="bytes", labels={"wheel": ()})
LATENCY = Figure("wheel", FigureKind.HISTOGRAM, "Latency.", unit="seconds", labels={"way": ("left", "right")})
SIZE = Figure("wheel_size", FigureKind.HISTOGRAM, "Size.", unit="bytes")
GRADE = Figure("wheel_grade", FigureKind.HISTOGRAM, "Grade, which has no unit.")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def meter(registry: CollectorRegistry) -> PrometheusMeter:
    return PrometheusMeter(registry)


def test_a_figure_of_a_plugin_is_registered_at_its_first_use(
    meter: PrometheusMeter, registry: CollectorRegistry
) -> None:
    assert registry.get_sample_value("relaykit_wheel_spins_total", {"way": "right"}) is None
    meter.count(SPINS, 2, way="left")
    meter.count(SPINS, 0.5, way="left")
    assert registry.get_sample_value("relaykit_wheel_spins_total", {"way": "left"}) == 2.5
    assert registry.get_sample_value("relaykit_wheel_spins_total", {"way": "right"}) == 0


def test_names_end_in_unit_and_total(meter: PrometheusMeter, registry: CollectorRegistry) -> None:
    meter.count(TURNS)
    meter.count(SENT, 7, wheel="rear")
    meter.observe(SIZE, 100)
    meter.observe(GRADE, 3)
    assert registry.get_sample_value("relaykit_wheel_turns_total") == 1
    assert registry.get_sample_value("relaykit_wheel_sent_bytes_total", {"wheel": "rear"}) == 7
    assert registry.get_sample_value("relaykit_wheel_size_bytes_bucket", {"le": "64.0"}) == 0
    assert registry.get_sample_value("relaykit_wheel_size_bytes_bucket", {"le": "256.0"}) == 1
    assert registry.get_sample_value("relaykit_wheel_grade_sum") == 3


def test_a_histogram_is_observed_by_label(meter: PrometheusMeter, registry: CollectorRegistry) -> None:
    meter.observe(LATENCY, 0.02, way="left")
    meter.observe(LATENCY, 7, way="left")
    assert registry.get_sample_value("relaykit_wheel_seconds_sum", {"way": "left"}) == 7.02
    assert registry.get_sample_value("relaykit_wheel_seconds_bucket", {"way": "left", "le": "0.05"}) == 1
    assert registry.get_sample_value("relaykit_wheel_seconds_count", {"way": "right"}) == 0


def test_the_order_of_labels_means_nothing(meter: PrometheusMeter, registry: CollectorRegistry) -> None:
    figure = Figure("pairs", FigureKind.COUNTER, "Pairs.", labels={"left": (), "right": ()})
    meter.count(figure, left="a", right="b")
    meter.count(figure, right="b", left="a")
    assert registry.get_sample_value("relaykit_pairs_total", {"left": "a", "right": "b"}) == 2


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_of_relaykit_is_known_from_the_start(
    figure: Figure, registry: CollectorRegistry
) -> None:
    PrometheusMeter(registry)
    name = f"relaykit_{figure.name}" + (f"_{figure.unit}" if figure.unit else "")
    [family] = [family for family in registry.collect() if family.name == name]
    assert (family.type, family.documentation) == (figure.kind, figure.help)


def reports(caplog: pytest.LogCaptureFixture) -> list[tuple[int, bool]]:
    return [(record.levelno, bool(record.exc_info)) for record in caplog.records]


ONCE = [(logging.ERROR, True)]


def test_a_wrong_label_is_logged_once_and_harms_nothing(
    meter: PrometheusMeter, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        meter.count(MESSAGES, way="left")
        meter.count(MESSAGES)
        meter.count(TURNS, way="left")
    meter.count(MESSAGES, direction="to_agent")
    assert reports(caplog) == ONCE * 2
    assert "'messages'" in caplog.text
    assert "'wheel_turns'" in caplog.text
    assert registry.get_sample_value("relaykit_messages_total", {"direction": "to_agent"}) == 1


def test_a_negative_amount_is_logged_once_and_not_counted(
    meter: PrometheusMeter, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    meter.count(TURNS, -1)
    meter.count(TURNS, -1)
    meter.count(TURNS, 3)
    assert reports(caplog) == ONCE
    assert registry.get_sample_value("relaykit_wheel_turns_total") == 3


@pytest.mark.parametrize("known", [False, True])
def test_the_wrong_method_for_a_kind_is_logged_once(
    meter: PrometheusMeter,
    caplog: pytest.LogCaptureFixture,
    known: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    if known:
        meter.count(TURNS)
        meter.observe(SIZE, 1)
    for _ in range(2):
        meter.observe(TURNS, 1)
        meter.count(SIZE)
    assert reports(caplog) == ONCE * 2


def test_a_name_that_is_in_use_is_logged_once(
    meter: PrometheusMeter, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    Gauge("relaykit_wheel_turns_total", "Somebody else's.", registry=registry)
    meter.count(TURNS)
    meter.count(TURNS)
    assert reports(caplog) == ONCE
    assert registry.get_sample_value("relaykit_wheel_turns_total") == 0
