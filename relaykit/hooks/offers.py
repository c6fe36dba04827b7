"""What plugins return: checked when it is returned, so that the error names the plugin, and says what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

Flaw = Callable[[Any], str | None]
"""Says of what was returned why it is not what was asked for; nothing more than that if empty. None: it is."""


class NotAskedFor(Exception):
    """A plugin returned something else than it should have.

    :param complaint: what should have been, and why this is not: as ``where a Workspace was asked for``.
    """

    def __init__(self, offered: object, wanted: str, flaw: str = "") -> None:
        self.offered = offered
        self.complaint = f"where {wanted} was asked for{flaw and ': '}{flaw}"
        super().__init__(f"it returned {offered!r}, {self.complaint}")


def demand(offered: Any, wanted: str, flaw_of: Flaw) -> None:
    """Let what was asked for pass.

    :raises NotAskedFor: it is something else.
    """
    flaw = flaw_of(offered)
    if flaw is not None:
        raise NotAskedFor(offered, wanted, flaw)


def mapping_of(wanted: str, flaw_of: Flaw) -> Callable[[Any], Mapping[str, Any]]:
    """Return a check for hooks that return a mapping of things by name.

    :raises NotAskedFor: (the check) it is something else.
    """

    def check(offered: Any) -> Mapping[str, Any]:
        if not isinstance(offered, Mapping) or not all(isinstance(name, str) for name in offered):
            raise NotAskedFor(offered, "a mapping by name")
        for value in offered.values():
            demand(value, wanted, flaw_of)
        return offered

    return check


def sequence_of(
    wanted: str, flaw_of: Flaw, name_of: Callable[[Any], str]
) -> Callable[[Any], Mapping[str, Any]]:
    """Return a check for hooks that return a sequence of things that have a name; it gives them back by name.

    :raises NotAskedFor: (the check) it is something else, or one name occurs twice.
    """

    def check(offered: Any) -> Mapping[str, Any]:
        if not isinstance(offered, Sequence) or isinstance(offered, str | bytes):
            raise NotAskedFor(offered, "a list")
        by_name: dict[str, Any] = {}
        for value in offered:
            demand(value, wanted, flaw_of)
            if by_name.setdefault(name_of(value), value) is not value:
                raise NotAskedFor(name_of(value), "each name once")
        return by_name

    return check


# ---------------------------------------------------------------- what is asked for


def function(value: Any) -> str | None:
    """Accept what can be called."""
    return None if callable(value) else ""


def instance_of(cls: type, *functions: str, texts: Sequence[str] = ("name",)) -> Flaw:
    """Accept instances of a class of ours.

    :param functions: attributes that must be callable; `texts`: those that must be strings.
    """

    def flaw_of(value: Any) -> str | None:
        if not isinstance(value, cls):
            return ""
        for attributes, right, what in (
            (texts, lambda found: isinstance(found, str), "a text"),
            (functions, callable, "a function"),
        ):
            for attribute in attributes:
                if not right(found := getattr(value, attribute)):
                    return f"its {attribute} is {found!r}, not {what}"
        return None

    return flaw_of


def like(protocol: type) -> Flaw:
    """Accept instances of any class that has what a Protocol has, as far as that can be seen."""

    def flaw_of(value: Any) -> str | None:
        if isinstance(value, type):
            return "it is a class: return an instance of it"
        methods, others = _shape(protocol)
        lacks = [name for name in methods if not callable(getattr(value, name, None))]
        lacks += [name for name in others if not hasattr(value, name)]
        return f"it lacks {', '.join(lacks)}" if lacks else None

    return flaw_of


@cache
def _shape(protocol: type) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of a Protocol's methods, and those of its other attributes."""
    public = {name: value for name, value in sorted(vars(protocol).items()) if not name.startswith("_")}
    methods = [name for name, value in public.items() if inspect.isfunction(value)]
    return methods, [name for name in public if name not in methods]
