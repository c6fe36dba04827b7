from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry, Gauge

from relaykit.meter import FIGURES, HOOK_FAILURES, MESSAGES, Figure, FigureKind, Values
from relaykit_prometheus.meter import PrometheusMeter

SPINS = Figure("wheel_spins", FigureKind.COUNTER, "Spins.", labels={"way": ("left", "right")})
TURNS = Figure("wheel_turns", FigureKind.COUNTER, "Turns.")
SENT = Figure("wheel_sent", FigureKind.COUNTER, "Sent.", unit="bytes", labels={"wheel": ()})
LATENCY = Figure("wheel", FigureKind.HISTOGRAM, "Latency.", unit="seconds", labels={"way": ("left", "right")})
SIZE = Figure("wheel_size", FigureKind.HISTOGRAM, "Size.", unit="bytes")
GRADE = Figure("wheel_grade", FigureKind.HISTOGRAM, "Grade, which has no unit.")


WHEELS = Figure("wheels", FigureKind.GAUGE, "Wheels.", labels={"way": ("left", "right")})
CHOOSY = Figure("choosy", FigureKind.HISTOGRAM, "Choosy.", unit="seconds", buckets=(0.5, 2))


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


def test_a_figure_that_is_expected_is_shown_at_zero_before_it_happens(
    meter: PrometheusMeter, registry: CollectorRegistry
) -> None:
    meter.expect(TURNS)
    assert registry.get_sample_value("relaykit_wheel_turns_total") == 0
    meter.expect(HOOK_FAILURES, plugin="p", hook="h")
    for failure in HOOK_FAILURES.labels["failure"]:
        labels = {"plugin": "p", "hook": "h", "failure": failure}
        assert registry.get_sample_value("relaykit_hook_failures_total", labels) == 0
    meter.expect(SENT, wheel="rear")
    meter.count(SENT, 7, wheel="rear")
    meter.expect(SENT, wheel="rear")
    assert registry.get_sample_value("relaykit_wheel_sent_bytes_total", {"wheel": "rear"}) == 7
    meter.expect(HOOK_FAILURES, plugin="q")  # its hook is not known: nothing can be shown
    assert len(meter.figures) == len(set(meter.figures)) == len(FIGURES) + 2


def test_a_gauge_is_looked_at_when_it_is_scraped_and_its_readers_add_up(
    meter: PrometheusMeter, registry: CollectorRegistry
) -> None:
    here: dict[tuple[str, ...], float] = {("left",): 1}
    there: dict[tuple[str, ...], float] = {("left",): 2, ("up",): 5}
    assert registry.get_sample_value("relaykit_wheels", {"way": "left"}) is None
    meter.watch(WHEELS, lambda: here)
    meter.watch(WHEELS, lambda: there)
    here["left",] = 40
    assert {
        way: registry.get_sample_value("relaykit_wheels", {"way": way}) for way in ("left", "right", "up")
    } == {"left": 42, "right": 0, "up": 5}


def test_a_gauge_that_cannot_be_read_is_logged_once_and_spoils_no_scrape(
    meter: PrometheusMeter, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Values:
        raise RuntimeError("as it should")

    meter.watch(WHEELS, fail)
    meter.count(TURNS)
    for _ in range(2):
        assert registry.get_sample_value("relaykit_wheel_turns_total") == 1
        assert registry.get_sample_value("relaykit_wheels", {"way": "left"}) is None
    assert reports(caplog) == ONCE


def test_a_histogram_has_the_buckets_that_it_names(
    meter: PrometheusMeter, registry: CollectorRegistry
) -> None:
    meter.observe(CHOOSY, 0.2)
    bounds = [
        sample.labels["le"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "relaykit_choosy_seconds_bucket"
    ]
    assert bounds == ["0.5", "2.0", "+Inf"]


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
        meter.count(WHEELS)
        meter.watch(CHOOSY, dict)
    assert reports(caplog) == ONCE * 4


def test_a_name_that_is_in_use_is_logged_once(
    meter: PrometheusMeter, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    Gauge("relaykit_wheel_turns_total", "Somebody else's.", registry=registry)
    meter.count(TURNS)
    meter.count(TURNS)
    assert reports(caplog) == ONCE
    assert registry.get_sample_value("relaykit_wheel_turns_total") == 0
