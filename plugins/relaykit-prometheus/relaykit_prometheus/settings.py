"""What can be set in ``[plugins.prometheus]``."""

from __future__ import annotations

from dataclasses import dataclass

from relaykit.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSettings:
    """``[plugins.prometheus]``."""

    public_metrics: bool = setting(False, help="whether `/metrics` is answered without the gateway's token")
