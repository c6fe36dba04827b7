from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from relaykit.hooks.meters import Meters
from relaykit.meter import HOOK_SECONDS, MESSAGES, SESSIONS, Figure, Values
from support.plugin_sites import RecordingMeter


class BrokenMeter:
    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        raise RuntimeError(figure.name, amount, labels)

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        raise RuntimeError(figure.name, value, labels)

    def expect(self, figure: Figure, /, **labels: str) -> None:
        raise RuntimeError(figure.name, labels)

    def watch(self, figure: Figure, read: Callable[[], Values], /) -> None:
        raise RuntimeError(figure.name, read)


def test_every_meter_gets_every_figure() -> None:
    meters, one, two = Meters(), RecordingMeter(), RecordingMeter()
    meters.count(MESSAGES, direction="to_agent")  # before there is any
    meters.add("one", one)
    meters.add("two", two)
    meters.count(MESSAGES, 3, direction="to_agent")
    meters.observe(HOOK_SECONDS, 0.5, plugin="p", hook="h")
    meters.expect(HOOK_SECONDS, plugin="p", hook="h")
    meters.watch(SESSIONS, dict)
    for meter in (one, two):
        assert meter.expected == [("hook", {"plugin": "p", "hook": "h"})]
        assert meter.watched == {"sessions": dict}
        assert meter.counted == [("messages", 3, {"direction": "to_agent"})]
        assert meter.observed == [("hook", 0.5, {"plugin": "p", "hook": "h"})]


def test_a_meter_that_raises_harms_nobody_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    meters, good = Meters(), RecordingMeter()
    meters.add("bad", BrokenMeter())
    meters.add("good", good)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            meters.count(MESSAGES, direction="to_agent")
            meters.observe(HOOK_SECONDS, 0.5, plugin="p", hook="h")
            meters.expect(HOOK_SECONDS, plugin="p", hook="h")
            meters.watch(SESSIONS, dict)
    assert len(good.counted) == len(good.observed) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "plugin 'bad': its meter failed to take 'messages'"
    ]
