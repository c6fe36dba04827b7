"""What can be set in ``[plugins.prometheus]``."""

from __future__ import annotations

from dataclasses import dataclass

from relaykit.settings import setting

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSettings:
    """``[plugins.prometheus]``."""

    public_metrics: bool = setting(
        False, help="whether the gateway's `/metrics` is answered without its token"
    )
    port: int | None = setting(
        None,
        help="a port on which `relaykit serve` answers `/metrics` without a token, besides the gateway or "
        "without one; 0 for any free one. By default there is none",
    )
    host: str = setting("127.0.0.1", help="the address of that port")

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= _MAX_PORT:
            raise ValueError(f"port must be 0 to {_MAX_PORT}")
