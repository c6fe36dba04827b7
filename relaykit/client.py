"""The client for scripts that talk to a relay.

::

    from relaykit.client import Update, connect

It is part of relaykit-gateway, which announces it in the entry point group ``relaykit.client``: core imports no plugin,
and whoever builds a gateway of their own can bring a client of their own under this name. So type checkers see nothing
of it here: where they are to, import `relaykit_gateway.client`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

GROUP = "relaykit.client"


def __getattr__(name: str) -> Any:
    """Return what the installed client has under this name.

    :raises ModuleNotFoundError: none is installed, or more than one.
    """
    if name.startswith("__"):  # what the import system asks for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_installed(), name)


@cache
def _installed() -> Any:
    found = {entry.value: entry for entry in entry_points(group=GROUP)}
    if not found:
        raise ModuleNotFoundError(
            f"{__name__} is brought by relaykit-gateway: pip install relaykit-gateway", name=__name__
        )
    if len(found) > 1:
        listed = ", ".join(sorted(found))
        raise ModuleNotFoundError(f"more than one package brings {__name__}: {listed}", name=__name__)
    (entry,) = found.values()
    return entry.load()
