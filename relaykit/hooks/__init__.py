"""Hooks: the only folder that knows pluggy.

What a plugin needs to have hooks at all is imported here; the rest is imported where it is used, so that
listing the commands of plugins stays fast.
"""

from relaykit.errors import Refused
from relaykit.hooks.specs import hookimpl

__all__ = ["Refused", "hookimpl"]
