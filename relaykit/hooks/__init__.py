"""Hooks: the only folder that knows pluggy.

What a plugin needs to have hooks at all is here; the rest is imported where it is used, so that listing the
commands of plugins stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relaykit.errors import Refused

if TYPE_CHECKING:
    from relaykit.hooks.specs import hookimpl

__all__ = ["Refused", "hookimpl"]


def __getattr__(name: str) -> Any:
    # Imported when it is used: a command that is found by its entry point needs no pluggy.
    if name != "hookimpl":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from relaykit.hooks.specs import hookimpl

    return hookimpl
