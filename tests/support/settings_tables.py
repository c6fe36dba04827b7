"""Settings dataclasses as a plugin declares them, and what reading them from text gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from relaykit.errors import SettingsError
from relaykit.settings import setting
from support.plugin_sites import settings_from


class Colour(StrEnum):
    """A choice."""

    RED = "red"
    DARK_BLUE = "dark-blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """A field of every kind."""

    text: str = setting("", help="a string")
    whole: int = setting(0, help="an integer")
    number: float = setting(0.0, help="a number")
    flag: bool = setting(False, help="a switch")
    path: Path = setting(Path("/"), help="a path")
    names: tuple[str, ...] = setting((), help="a list")
    labels: Mapping[str, str] = setting({}, help="a table")
    maybe: str | None = setting(None, help="a string, or nothing")
    maybe_whole: int | None = setting(None, help="an integer, or nothing")
    maybe_names: tuple[str, ...] | None = setting(None, help="a list, or nothing")
    mode: Literal["fast", "safe"] = setting("fast", help="a choice")
    colour: Colour = setting(Colour.RED, help="a choice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """Secrets, and a rule that spans two fields."""

    token: str = setting("built-in", help="opens the door", secret=True)
    tokens: Mapping[str, str] = setting({}, help="opens others", secret=True)
    pin: int = setting(0, help="opens the door as well", secret=True)
    low: int = setting(0, help="the least")
    high: int = setting(9, help="the most")

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is higher than high")


def wrong(
    directory: Path, toml: str = "", *, cls: type | None = None, environ: Mapping[str, str] | None = None
) -> SettingsError:
    """Return the error that loading these settings, or reading ``[plugins.x]`` from them, raises."""
    try:
        settings = settings_from(directory, toml, environ=environ)
        if cls is not None:
            settings.plugin("x", cls)
    except SettingsError as error:
        return error
    raise AssertionError("nothing was wrong")


def everything(directory: Path, toml: str = "", **environ: str) -> Everything:
    """Return ``[plugins.x]`` of these settings."""
    return settings_from(directory, toml, environ=environ).plugin("x", Everything)
