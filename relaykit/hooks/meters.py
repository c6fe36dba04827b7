"""Meters: one Meter in front of those that plugins provide."""

from __future__ import annotations

import logging
from collections.abc import Callable

from relaykit.meter import Figure, Meter, Values

logger = logging.getLogger(__name__)


class Meters:
    """Gives every figure to each plugin's meter. A meter that raises harms neither the others nor the caller.

    It may be handed out before the plugins' meters exist: `add` completes it. Not for several threads.
    """

    def __init__(self) -> None:
        self._meters: list[tuple[str, Meter]] = []
        self._failed: set[str] = set()

    def add(self, plugin: str, meter: Meter, /) -> None:
        """Let a plugin's meter have every figure from now on."""
        self._meters.append((plugin, meter))

    @property
    def listening(self) -> bool:
        """There is a meter: what costs something to be measured is worth it."""
        return bool(self._meters)

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Add `amount` (≥ 0) to a counter of each meter."""
        for plugin, meter in self._meters:
            try:
                meter.count(figure, amount, **labels)
            except Exception:  # noqa: BLE001 -- a figure is never worth what it counts
                self._report(plugin, figure)

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Record one value in each meter's histogram."""
        for plugin, meter in self._meters:
            try:
                meter.observe(figure, value, **labels)
            except Exception:  # noqa: BLE001 -- as above
                self._report(plugin, figure)

    def expect(self, figure: Figure, /, **labels: str) -> None:
        """Have each meter know of a figure."""
        for plugin, meter in self._meters:
            try:
                meter.expect(figure, **labels)
            except Exception:  # noqa: BLE001 -- as above
                self._report(plugin, figure)

    def watch(self, figure: Figure, read: Callable[[], Values], /) -> None:
        """Have each meter look at a gauge."""
        for plugin, meter in self._meters:
            try:
                meter.watch(figure, read)
            except Exception:  # noqa: BLE001 -- as above
                self._report(plugin, figure)

    def _report(self, plugin: str, figure: Figure) -> None:
        # The first failure in full; a meter on a hot path would flood the log with the rest.
        log = logger.debug if plugin in self._failed else logger.error
        self._failed.add(plugin)
        log("plugin %r: its meter failed to take %r", plugin, figure.name, exc_info=True)
