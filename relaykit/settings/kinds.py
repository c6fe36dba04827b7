"""The kinds of value that a setting may have, by the type of its field: taken from TOML or from text, and shown."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from relaykit.errors import did_you_mean


class WrongKind(Exception):
    """A value is not of its field's kind; `expected` says for people what it should have been."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: relative paths begin at `base`, and ``~`` is `home`."""

    base: Path
    home: Path


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field takes.

    :param label: for tables and documentation: ``list of strings``.
    :param plain: in the environment the text is the value itself; otherwise it is written as in TOML.
    :param take: returns the field's value, or raises `WrongKind`.
    """

    label: str
    plain: bool
    take: Callable[[object, Place], Any]

    def take_text(self, text: str, place: Place) -> Any:
        """Return the value that an environment variable's text means.

        :raises WrongKind: it does not mean one of this kind.
        """
        if self.plain:
            return self.take(text, place)
        try:
            parsed = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            parsed = {}
        if parsed.keys() != {"value"}:  # not TOML, or text that goes on behind the value
            raise WrongKind(f"{_expected(self.label)}, written as in TOML")
        return self.take(parsed["value"], place)


def kind_of(hint: object) -> Kind:
    """Return the kind of a field from its resolved type.

    :raises TypeError: settings cannot hold values of this type.
    """
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        others = [argument for argument in arguments if argument is not types.NoneType]
        if len(others) == 1:
            return kind_of(others[0])
    if origin is Literal and all(isinstance(argument, str) for argument in arguments):
        return _choice({str(argument): argument for argument in arguments})
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _choice({member.value: member for member in hint})
    raise TypeError(
        f"{hint!r} is not a type that settings can hold: use str, int, float, bool, Path, tuple[str, ...], "
        "Mapping[str, str], tuple[Mapping[str, Any], ...], a Literal of strings, a StrEnum, one of these and None, or "
        "a tuple of dataclasses"
    )


def table_of(hint: object) -> type | None:
    """Return the dataclass of a list of tables, whose type is ``tuple[Rule, ...]``; None for what is no such list."""
    arguments = get_args(hint)
    if get_origin(hint) is not tuple or len(arguments) != 2 or arguments[1] is not Ellipsis:  # noqa: PLR2004
        return None
    item = arguments[0]
    return item if isinstance(item, type) and is_dataclass(item) else None


def to_toml(value: object) -> str:
    """Return a value as it would be written in ``relaykit.toml``; None, which TOML has not, as nothing."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case Mapping():
            pairs = ", ".join(f"{to_toml(str(key))} = {to_toml(item)}" for key, item in value.items())
            return f"{{{pairs}}}"
        case tuple() | list():
            return f"[{', '.join(to_toml(item) for item in value)}]"
        case _:
            return f'"{"".join(_escape(character) for character in str(value))}"'


def describe_found(value: object) -> str:
    """Return the kind of a TOML value, for people: without the value, which may be a secret."""
    return next((name for kind, name in _FOUND if isinstance(value, kind)), "a date or a time")


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04x}"
    return character


def _expected(label: str) -> str:
    if label.startswith(("true", "one of")):
        return label
    return f"an {label}" if label.startswith("integer") else f"a {label}"


def _take_string(value: object, _place: Place) -> str:
    if not isinstance(value, str):
        raise WrongKind("a string")
    return value


def _take_bool(value: object, _place: Place) -> bool:
    if not isinstance(value, bool):
        raise WrongKind("true or false")
    return value


def _take_integer(value: object, _place: Place) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise WrongKind("an integer")
    return value


def _take_number(value: object, _place: Place) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:  # noqa: PLR0124 -- nan
        raise WrongKind("a number")
    try:
        return float(value)
    except OverflowError:
        raise WrongKind("a smaller number") from None


def _take_path(value: object, place: Place) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise WrongKind("a path")
    if value == "~" or value.startswith("~/"):
        return place.home / value[2:]
    try:
        return place.base / Path(value).expanduser()
    except RuntimeError:  # ~somebody, who is not a user here
        raise WrongKind("a path whose ~user exists") from None


def _take_strings(value: object, _place: Place) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise WrongKind('a list of strings, as ["a", "b"]')
    return tuple(value)


def _take_table(value: object, _place: Place) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
        raise WrongKind('a table of strings, as { a = "b" }')
    return types.MappingProxyType({str(key): str(item) for key, item in value.items()})


def _take_tables(value: object, _place: Place) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise WrongKind('a list of tables, as [{ a = "b" }]')
    return tuple(types.MappingProxyType(dict(item)) for item in value)


def _choice(members: Mapping[str, object]) -> Kind:
    label = f"one of {_quoted(tuple(members))}"

    def take(value: object, _place: Place) -> object:
        if not isinstance(value, str):
            raise WrongKind(label)
        if value not in members:
            raise WrongKind(f"{label}{did_you_mean(value, members)}")
        return members[value]

    return Kind(label, plain=True, take=take)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


_SIMPLE: Mapping[object, Kind] = {
    str: Kind("string", plain=True, take=_take_string),
    bool: Kind("true or false", plain=False, take=_take_bool),
    int: Kind("integer", plain=False, take=_take_integer),
    float: Kind("number", plain=False, take=_take_number),
    Path: Kind("path", plain=True, take=_take_path),
    tuple[str, ...]: Kind("list of strings", plain=False, take=_take_strings),
    Mapping[str, str]: Kind("table of strings", plain=False, take=_take_table),
    tuple[Mapping[str, Any], ...]: Kind("list of tables", plain=False, take=_take_tables),
}

_FOUND: Sequence[tuple[type | types.UnionType, str]] = (
    (bool, "true or false"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (Mapping, "a table"),
    (list | tuple, "a list"),
)
