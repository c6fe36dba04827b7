"""Addresses: which are on the public internet, and which a name has."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import anyio

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host, the best first; raises OSError if it has none."""

_NAT64 = IPv6Network("64:ff9b::/96")
"""Leads to the IPv4 address in its last 32 bits (RFC 6052)."""


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public internet: no private, loopback, link-local or other special one.

    An IPv6 address that leads to an IPv4 address is what that is.
    """
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = _inner(found)
        if inner is not None:
            return is_public(str(inner))
        if found.is_site_local:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def literal(host: str) -> str | None:
    """Return the address that a host is; None if it is a name, but for those that are this machine (RFC 6761, 6.3)."""
    if host.lower().removesuffix(".").rpartition(".")[2] == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        return None


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the system knows of a host.

    :raises OSError: it knows none.
    """
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
