"""PermissionRules: what ``[[permissions]]`` says to an agent's request. In doubt nothing, and a person is asked.

Pure, but for where symbolic links lead. They go by what the agent says of its tool: of one that lies, they know no
more than a person who reads its question.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from relaykit.agent.launcher import ToolUse
from relaykit.settings import PermissionRule, RuleAction, ToolKind

_FILES = frozenset({ToolKind.READ, ToolKind.EDIT, ToolKind.DELETE, ToolKind.MOVE, ToolKind.SEARCH})
"""Kinds of tools whose locations are all that they touch, if they say any."""
_NO_FILES = frozenset({ToolKind.THINK, ToolKind.FETCH, ToolKind.SWITCH_MODE})
"""Kinds that touch none. Any other may touch more than it says."""


class Ruling(NamedTuple):
    """The rule that decides.

    :param number: its place among the rules, from 1.
    """

    number: int
    rule: PermissionRule


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a request comes from.

    :param worktree: absolute; where the session's agent works. Empty if that is not known.
    """

    agent: str
    project: str
    worktree: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A location, in every way in which it can be spelled.

    :param said: without ``..``, but as it was said.
    :param real: where its symbolic links lead; once absolute, once through the worktree, if it is in there.
    :param plain: it leads where it says.
    """

    said: str
    real: tuple[str, ...]
    plain: bool


def rule_on(
    rules: Sequence[PermissionRule],
    use: ToolUse,
    scene: Scene,
    *,
    resolve: Callable[[str], str] = os.path.realpath,
) -> Ruling | None:
    """Return the first rule that matches, or None if people are to be asked.

    Where it cannot be told whether a rule matches that allows, it does not; any other has people asked, because
    one behind it might allow what it is there to prevent.

    :param resolve: returns an absolute path without symbolic links. It may look at the disk.
    """
    try:
        places = [_place(path, scene.worktree, resolve) for path in use.locations]
    except (ValueError, OSError):
        return None
    for number, rule in enumerate(rules, 1):
        if rule.agent not in {None, scene.agent} or rule.project not in {None, scene.project}:
            continue
        allows = rule.action is RuleAction.ALLOW
        matches = _allows(rule, use, places, scene) if allows else _concerns(rule, use, places, scene)
        if matches is None or (matches and rule.action is RuleAction.ASK):
            return None
        if matches:
            return Ruling(number, rule)
    return None


def _allows(rule: PermissionRule, use: ToolUse, places: Sequence[_Place], scene: Scene) -> bool:
    """Tell whether all that is to be done is what a rule allows."""
    if rule.kind not in {None, use.kind} or not all(place.plain for place in places):
        return False
    if rule.path is None:
        return True
    if not places or (rule.kind is None and use.kind not in _FILES):
        return False  # it says too little of what it touches
    return all(
        _fits(rule.path, place.said, scene.worktree)
        and any(_fits(rule.path, real, scene.worktree) for real in place.real)
        for place in places
    )


def _concerns(rule: PermissionRule, use: ToolUse, places: Sequence[_Place], scene: Scene) -> bool | None:
    """Tell whether anything of what is to be done is what a rule is about; None if it might be."""
    if use.kind is not None and rule.kind not in {None, use.kind}:
        return False
    if rule.path is not None:
        spelled = [path for place in places for path in (place.said, *place.real)]
        if not any(_fits(rule.path, path, scene.worktree) for path in spelled):
            says_all = use.kind in _FILES and places and scene.worktree
            return False if says_all or use.kind in _NO_FILES else None
    return True if rule.kind is None or use.kind is not None else None


def _place(path: str, worktree: str, resolve: Callable[[str], str]) -> _Place:
    """Look where a location is.

    :raises ValueError: nobody can tell.
    """
    if not path or "\0" in path or not (worktree or path.startswith("/")):
        raise ValueError(path)
    absolute = path if path.startswith("/") else f"{worktree}/{path}"
    said, real = _normal(absolute), _normal(resolve(absolute))
    home, real_home = _normal(worktree), _normal(resolve(worktree)) if worktree else ""
    spelled = [real]
    if worktree and _within(real, real_home):
        spelled.append(_normal(f"{home}/{real.removeprefix(real_home)}"))
    leads_out = bool(worktree) and _within(said, home) and len(spelled) == 1
    plain = path.startswith("/") and ".." not in path.split("/") and not leads_out
    return _Place(said, tuple(spelled), plain)


def _normal(path: str) -> str:
    return "/" + os.path.normpath(path).lstrip("/")


def _within(path: str, directory: str) -> bool:
    return directory in {"/", path} or path.startswith(f"{directory}/")


def _fits(pattern: str, path: str, worktree: str) -> bool:
    """Tell whether an absolute path fits a pattern, which may begin in the worktree."""
    if not pattern.startswith("/"):
        home = _normal(worktree)
        if not worktree or not _within(path, home):
            return False
        path = path.removeprefix(home)
    return glob_matches(_names(path), (*_names(pattern), *(("**",) if pattern.endswith("/") else ())))


def _names(path: str) -> tuple[str, ...]:
    return tuple(name for name in path.split("/") if name)


def glob_matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a path's names match a pattern's: ``**`` is any number of names, the rest as in the shell.

    A dot at the beginning is like any other character. It takes at most the product of both lengths.
    """
    places = _reachable({0}, pattern)
    for name in names:
        steps = {place for place in places if place < len(pattern) and pattern[place] == "**"}
        steps |= {
            place + 1
            for place in places
            if place < len(pattern) and pattern[place] != "**" and fnmatchcase(name, pattern[place])
        }
        places = _reachable(steps, pattern)
    return len(pattern) in places


def _reachable(places: set[int], pattern: Sequence[str]) -> set[int]:
    """Return these places in a pattern, and those behind each ``**``, which may stand for nothing."""
    found: set[int] = set()
    for place in places:
        found.add(place)
        while place < len(pattern) and pattern[place] == "**":
            place += 1  # noqa: PLW2901 -- it walks on
            found.add(place)
    return found
