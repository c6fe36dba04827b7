"""setting: declares one key of a settings dataclass. Where: the place at which its table is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from types import MappingProxyType
from typing import Any

from relaykit.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Where:
    """Where a table is written. A field of this type is no key: it is filled by who reads the table.

    For what can be found wrong only later, when the settings have been read.

    :param table: ``hooks[2]``.
    :param origin: the file, and the line if that is known.
    """

    table: str = ""
    origin: str = ""

    def wrong(self, key: str, message: str) -> SettingsError:
        """Return the error that says what is wrong with a key of this table."""
        return SettingsError(message, key=f"{self.table}.{key}", origin=self.origin)


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
