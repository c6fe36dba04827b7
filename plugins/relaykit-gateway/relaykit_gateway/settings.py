"""``[plugins.gateway]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from relaykit.settings import setting

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*", re.ASCII)  # what both a header and a cookie can carry
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Where the gateway listens, and whom it lets in."""

    host: str = setting("127.0.0.1", help="the address to listen on")
    port: int = setting(7433, help="the port to listen on; 0 for any free one")
    public_url: str = setting("", help="how clients reach it from outside, as `https://relay.example.com`")
    token: str = setting("", help="what clients must know; by default one is made and kept", secret=True)
    auth: bool = setting(
        True,
        help="whether clients must know the token; `false` is refused on an address that is not loopback",
    )
    origins: tuple[str, ...] = setting((), help="other web origins whose pages may connect")
    max_message_bytes: int = setting(
        1024 * 1024, help="bytes that a message of a client of `/ws` may have; `/acp` takes 16 MiB"
    )
    client_mcp_servers: bool = setting(
        False, help="whether clients of `/acp` may name MCP servers, of the types http and sse alone"
    )
    max_clients: int = setting(
        4096,
        help="how many clients may be connected at once; one more is answered with 503. 0 for any number",
    )
    max_messages_per_second: int = setting(
        10_000, help="how many messages a client may send a second, in the long run; 0 for any number"
    )
    ping_interval: float = setting(30.0, help="seconds between pings to a client")
    pong_timeout: float = setting(
        10.0,
        help="seconds that a client may take to answer a ping; who does not, and takes nothing, is dropped, and can "
        "come back",
    )
    stall_timeout: float = setting(
        30.0,
        help="seconds that a client may take nothing while there is something for it; then it is sent away",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port <= _MAX_PORT:
            raise ValueError(f"port must be 0 to {_MAX_PORT}")
        if not self.auth and not is_loopback(self.host):
            raise ValueError(
                f"auth = false lets everybody who reaches {self.host!r} run agents as this user: "
                'set auth = true, or host = "127.0.0.1"'
            )
        if self.token and _TOKEN.fullmatch(self.token) is None:
            raise ValueError("token must be at least 16 of A-Z, a-z, 0-9 and . _ ~ + / -")
        for name, urls in (("public_url", (self.public_url,)), ("origins", self.origins)):
            if wrong := next((url for url in urls if url and not _is_web_address(url)), None):
                raise ValueError(f"{name}: {wrong!r} is not of the form https://host or https://host:port")
        for name in ("max_clients", "max_messages_per_second"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0, for any number, or more")
        for name in ("max_message_bytes", "ping_interval", "pong_timeout", "stall_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port != 0
    except ValueError:
        return False
    plain = not (parts.username or parts.query or parts.fragment or parts.path.strip("/"))
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and plain and port_is_fine
