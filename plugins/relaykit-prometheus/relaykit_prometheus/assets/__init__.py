"""What comes with the metrics: a dashboard for Grafana, and recording and alerting rules for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

NAMES = ("relaykit-dashboard.json", "relaykit-recording.rules.yml", "relaykit-alerting.rules.yml")


def assets() -> Mapping[str, bytes]:
    """Return each file's content by its name."""
    return {name: files(__name__).joinpath(name).read_bytes() for name in NAMES}
