from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import anyio
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from relaykit.meter import HOOK_FAILURES
from relaykit.session import SessionState
from relaykit_prometheus import PrometheusPlugin
from relaykit_prometheus.settings import PrometheusSettings
from support.managers import session_in
from support.scraping import open_measured

pytestmark = pytest.mark.anyio

README = Path(__file__).parent.parent / "README.md"


def rows_under(heading: str) -> Iterator[list[str]]:
    _, _, section = README.read_text().partition(f"\n## {heading}\n")
    table = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    for line in table[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def described(family: Metric) -> tuple[str, str, tuple[str, ...]]:
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return name, family.type, tuple(sorted(labels))


async def test_the_table_of_metrics_is_what_a_scrape_has(tmp_path: Path) -> None:
    plugin = PrometheusPlugin(CollectorRegistry())
    with anyio.fail_after(30):
        async with open_measured({"prometheus": plugin}, tmp_path) as measured:
            await session_in(SessionState.CREATED, measured.manager)  # so that a hook was called
            measured.meter.count(
                HOOK_FAILURES, plugin="other", hook="relaykit_on_transition", failure="error"
            )
            families = await measured.families()
    written = [
        (name.strip("`"), kind, tuple(re.findall(r"\w+", labels)))
        for name, kind, labels, _ in rows_under("Metrics")
    ]
    assert sorted(written) == sorted(described(family) for family in families)


def test_the_table_of_settings_is_what_the_dataclass_has() -> None:
    written = [(key.strip("`"), default.strip("`")) for key, default, _ in rows_under("Settings")]
    assert written == [(key.name, str(key.default).lower()) for key in fields(PrometheusSettings)]
