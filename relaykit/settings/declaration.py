"""setting: declares one key of a settings dataclass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, field
from types import MappingProxyType
from typing import Any


def setting(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002 -- what argparse and every settings library call it
    secret: bool = False,
    shown: Callable[[Any], object] | None = None,
) -> Any:
    """Declare one key of a settings dataclass: its default (none: required), and what it means.

    :param default: a Mapping is copied.
    :param secret: its value is never shown, neither by ``relaykit settings`` nor in an error nor in a repr.
    :param shown: returns what ``relaykit settings`` shows of a value that holds secrets; a repr shows nothing.
    """
    metadata = {"help": help, "secret": secret, "shown": shown}
    in_repr = not secret and shown is None
    if default is MISSING:
        return field(metadata=metadata, repr=in_repr)
    if isinstance(default, Mapping):
        return field(default_factory=lambda: MappingProxyType(dict(default)), metadata=metadata, repr=in_repr)
    return field(default=default, metadata=metadata, repr=in_repr)
