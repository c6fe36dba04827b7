"""What register hooks may return: checked when it is returned, so that the error names the plugin at fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class NotAskedFor(Exception):
    """A register hook returned something else than it should have."""

    def __init__(self, offered: object, wanted: str) -> None:
        super().__init__(f"it returned {offered!r}, where {wanted} was asked for")


def mapping_of(kind: str, is_kind: Callable[[Any], bool]) -> Callable[[Any], Mapping[str, Any]]:
    """Return a check for hooks that return a mapping of things by name.

    :raises NotAskedFor: (the check) it is something else.
    """

    def check(offered: Any) -> Mapping[str, Any]:
        if not isinstance(offered, Mapping) or not all(isinstance(name, str) for name in offered):
            raise NotAskedFor(offered, "a mapping by name")
        for value in offered.values():
            if not is_kind(value):
                raise NotAskedFor(value, kind)
        return offered

    return check


def sequence_of(
    kind: str, is_kind: Callable[[Any], bool], name_of: Callable[[Any], str]
) -> Callable[[Any], Mapping[str, Any]]:
    """Return a check for hooks that return a sequence of things that have a name; it gives them back by name.

    :raises NotAskedFor: (the check) it is something else, or one name occurs twice.
    """

    def check(offered: Any) -> Mapping[str, Any]:
        if not isinstance(offered, Sequence) or isinstance(offered, str | bytes):
            raise NotAskedFor(offered, "a list")
        by_name: dict[str, Any] = {}
        for value in offered:
            if not is_kind(value):
                raise NotAskedFor(value, kind)
            if by_name.setdefault(name_of(value), value) is not value:
                raise NotAskedFor(name_of(value), "each name once")
        return by_name

    return check


def instance_of(cls: type[T]) -> Callable[[Any], bool]:
    """Return a test for instances of a class."""
    return lambda value: isinstance(value, cls)


def having(*methods: str) -> Callable[[Any], bool]:
    """Return a test for objects that have these methods; a Protocol's shape, as far as it can be seen."""
    return lambda value: all(callable(getattr(value, method, None)) for method in methods)
