"""Forms: what ``elicitation/create`` asks for, field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaykit_gateway.acp_client import Json
from relaykit_gateway.chat.transcript import objects

_YES, _NO = frozenset({"y", "yes", "true", "1"}), frozenset({"n", "no", "false", "0"})


class BadValue(ValueError):
    """What was typed is no value of the field. The text says what would be."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form.

    :param schema: the property's, of the JSON Schema that ACP allows here.
    """

    name: str
    schema: Json
    required: bool

    @property
    def title(self) -> str:
        """What to show for it."""
        return str(self.schema.get("title") or self.name)

    @property
    def hint(self) -> str:
        """What can be typed."""
        hints = [str(self.schema.get("format") or _HINTS.get(self._type, self._type))]
        if "default" in self.schema:
            hints.append(f"default: {_shown(self.schema['default'])}")
        elif not self.required:
            hints.append("may be empty")
        return ", ".join(hint for hint in hints if hint)

    @property
    def choices(self) -> Sequence[tuple[str, str]]:
        """The values that can be chosen, and their titles; empty if it is no such field."""
        items = self.schema.get("items") if self._type == "array" else self.schema
        if not isinstance(items, Mapping):
            return []
        titled = objects(items.get("oneOf")) or objects(items.get("anyOf"))
        if titled:
            return [(str(item.get("const")), str(item.get("title") or item.get("const"))) for item in titled]
        values = items.get("enum")
        return [(str(value), str(value)) for value in values] if isinstance(values, list) else []

    def read(self, typed: str) -> Any:
        """Return the value that was typed; None for none.

        :raises BadValue: it is not valid.
        """
        text = typed.strip()
        if not text:
            if "default" not in self.schema and self.required:
                raise BadValue("it must be given")
            return self.schema.get("default")
        reader = _READERS.get(self._type)
        if reader is None:
            raise BadValue(f"a field of type {self._type!r} cannot be filled in here")
        value = reader(self, text)
        if isinstance(value, str):
            self._check_text(value)
        elif isinstance(value, list):
            self._check_range(len(value), "minItems", "maxItems", "choose")
        elif not isinstance(value, bool):
            self._check_range(value, "minimum", "maximum", "it must be")
        return value

    @property
    def _type(self) -> str:
        return str(self.schema.get("type", "string"))

    def choice(self, text: str) -> str:
        """Return the value that was chosen, by number, value or title.

        :raises BadValue: it is none of them.
        """
        for number, (value, title) in enumerate(self.choices, start=1):
            if text.casefold() in {str(number), value.casefold(), title.casefold()}:
                return value
        raise BadValue(f"{text!r} is none of the choices")

    def _check_text(self, text: str) -> None:
        self._check_range(len(text), "minLength", "maxLength", "its length must be")
        pattern = self.schema.get("pattern")
        if isinstance(pattern, str):
            try:
                fits = re.search(pattern, text) is not None
            except re.error:
                fits = True  # it may be one of another dialect: the agent will see for itself
            if not fits:
                raise BadValue(f"it must match {pattern}")

    def _check_range(self, value: float, low: str, high: str, what: str) -> None:
        least, most = self.schema.get(low), self.schema.get(high)
        if isinstance(least, int | float) and value < least:
            raise BadValue(f"{what} at least {least}")
        if isinstance(most, int | float) and value > most:
            raise BadValue(f"{what} at most {most}")


def fields_of(params: Json) -> Sequence[Field]:
    """Return the fields of a form, in its own order."""
    schema = params.get("requestedSchema")
    schema = schema if isinstance(schema, Mapping) else {}
    properties, required = schema.get("properties"), schema.get("required")
    return [
        Field(str(name), field, required=isinstance(required, list) and name in required)
        for name, field in (properties.items() if isinstance(properties, Mapping) else ())
        if isinstance(field, Mapping)
    ]


def _read_text(field: Field, text: str) -> str:
    return field.choice(text) if field.choices else text


def _read_integer(_field: Field, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise BadValue(f"{text!r} is no whole number") from error


def _read_number(_field: Field, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise BadValue(f"{text!r} is no number") from error
    if value - value != 0:  # JSON has neither infinities nor NaN
        raise BadValue(f"{text!r} is no number")
    return value


def _read_boolean(_field: Field, text: str) -> bool:
    if text.casefold() in _YES:
        return True
    if text.casefold() in _NO:
        return False
    raise BadValue("y or n")


def _read_several(field: Field, text: str) -> list[str]:
    return [field.choice(part.strip()) for part in text.split(",") if part.strip()]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


_READERS: Mapping[str, Callable[[Field, str], Any]] = {
    "string": _read_text,
    "integer": _read_integer,
    "number": _read_number,
    "boolean": _read_boolean,
    "array": _read_several,
}
_HINTS = {"string": "", "integer": "a whole number", "number": "a number", "boolean": "y or n",
          "array": "several, with commas"}  # fmt: skip
