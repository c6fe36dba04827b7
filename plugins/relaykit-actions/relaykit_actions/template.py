"""Template: an argument of a program with fields in it, as ``{agent_id} is ready``. No shell, no code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from string import Formatter
from typing import NamedTuple

from relaykit.errors import did_you_mean

SAFE = frozenset(
    {
        "access",
        "agent",
        "agent_id",
        "at",
        "event",
        "outcome",
        "project",
        "protocol",
        "seconds",
        "session_id",
        "status",
    }
)
"""Fields with which an argument may begin: they are never empty, and begin with a letter or a digit."""


class _Piece(NamedTuple):
    """Text, and the field behind it; empty if there is none."""

    text: str
    field: str


class Template:
    """A text with fields. ``{{`` and ``}}`` are braces.

    :param known: the names that fields may have.
    :raises ValueError: it is no template, has another field, or begins with one of which a program might make
        something else than text.
    """

    def __init__(self, text: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self._pieces = []
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no template: {error}; write {{{{ for a brace") from None
        for literal, field, form, conversion in parsed:
            if field is not None and (form or conversion or field not in names):
                wanted = f"{{{field}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
                raise ValueError(
                    f"{text!r} has a field {wanted} that not all of its events have{did_you_mean(field, names)}; "
                    f"they have: {', '.join(names)}"
                )
            self._pieces.append(_Piece(literal, field or ""))
        first = next(iter(self._pieces), _Piece("", ""))
        if not first.text and first.field and first.field not in SAFE:
            raise ValueError(
                f"{text!r} begins with what others say, and might be taken for an option or a file: "
                "put a word of your own before it"
            )

    def fill(self, values: Mapping[str, object]) -> str:
        """Return the text with these values: what cannot be printed, a line's end too, as spaces."""
        return "".join(
            f"{piece.text}{plain(values[piece.field])}" if piece.field else piece.text
            for piece in self._pieces
        )


def plain(value: object) -> str:
    """Return a value as text of one line, which any program can be given."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else " " for character in text)
