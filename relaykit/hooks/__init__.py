"""Hooks: the only folder that knows pluggy."""

from relaykit.errors import Refused
from relaykit.hooks.specs import hookimpl

__all__ = ["Refused", "hookimpl"]
