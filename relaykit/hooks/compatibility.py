"""Compatibility: the version of the hooks, which of them a plugin needs, and what of them is deprecated.

A plugin says in its ``pyproject.toml`` which version it needs at least, so that this is known before it is imported::

    [project.entry-points."relaykit.api"]
    pager = "v1"

A plugin that says nothing is taken to need version 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from relaykit.errors import IncompatiblePlugin, PluginLoadError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import pluggy

API_VERSION = 1
"""The version of the hooks, their arguments and what these hold: one more whenever something is added or removed."""

GROUP = "relaykit.api"
"""The group of the entry points that say which version a plugin needs."""

_VERSION = re.compile(r"v([1-9][0-9]{0,5})", re.ASCII)
_MARK = "relaykit_deprecated"

F = TypeVar("F", bound=Callable[..., Any])


# ---------------------------------------------------------------- what a plugin needs


def needed_version(declared: str) -> int:
    """Return the version that an entry point of the group declares: 3 for ``v3``.

    :raises ValueError: it is not of that form.
    """
    found = _VERSION.fullmatch(declared)
    if found is None:
        raise ValueError(
            f"{declared!r} in the group {GROUP!r} is no version of the hooks: write 'v{API_VERSION}'"
        )
    return int(found[1])


def check_version(entry_point: EntryPoint) -> None:
    """Check that these hooks are new enough for a plugin, without importing it.

    :raises IncompatiblePlugin: they are not.
    :raises PluginLoadError: what it declares cannot be understood.
    """
    if entry_point.dist is None:
        return
    for declared in entry_point.dist.entry_points.select(group=GROUP, name=entry_point.name):
        try:
            needed = needed_version(declared.value)
        except ValueError as error:
            raise PluginLoadError(str(error), plugin=entry_point.name) from None
        if needed > API_VERSION:
            raise IncompatiblePlugin(entry_point.name, needs=needed, offered=API_VERSION)


# ---------------------------------------------------------------- what is deprecated


class Deprecation(NamedTuple):
    """Something of a hook that will go away.

    :param since: the version of the hooks in which it was deprecated.
    :param advice: what to use in its place.
    """

    since: int
    advice: str


def deprecated(*, since: int, advice: str, argument: str = "") -> Callable[[F], F]:
    """Mark a hookspec, or one of its arguments, as deprecated. It is called, or given, as before.

    ::

        @deprecated(since=2, advice="implement relaykit_on_transition")
        @hookspec
        async def relaykit_on_state(transition: Transition) -> None: ...

    :param argument: which one; empty for the hook as a whole.
    """

    def mark(spec: F) -> F:
        vars(spec).setdefault(_MARK, {})[argument] = Deprecation(since, advice)
        return spec

    return mark


def deprecated_uses(manager: pluggy.PluginManager, plugin: str, hooks: Sequence[str]) -> Iterator[str]:
    """Yield, for people, each deprecated thing that a registered plugin uses.

    :param hooks: those that it implements.
    """
    for hook in hooks:
        caller: pluggy.HookCaller = getattr(manager.hook, hook)
        if caller.spec is None:
            continue
        marked: dict[str, Deprecation] = vars(caller.spec.function).get(_MARK, {})
        taken = {
            name for found in caller.get_hookimpls() if found.plugin_name == plugin for name in found.argnames
        }
        for argument, (since, advice) in marked.items():
            if not argument:
                yield f"{hook} is deprecated since version {since} of the hooks: {advice}"
            elif argument in taken:
                yield f"{hook}: its argument {argument!r} is deprecated since version {since} of the hooks: {advice}"
