"""``relaykit worktrees``: lists them, collects what nobody needs, brings back what was parked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from relaykit.commands.table import print_table
from relaykit.errors import RelaykitError
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from datetime import datetime

    from relaykit.commands.invocation import Invocation
    from relaykit_worktree.git import Git
    from relaykit_worktree.inventory import Inventory, Item, Sessions

FAILED = 1

_COLUMNS = ("STATE", "SESSION", "BRANCH", "SIZE", "AGE", "PATH", "WHY")
_HOUR = 3600
_DAY = 24 * _HOUR


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list",
        help="list all worktrees, what each is, and its disk use",
        description="List all worktrees of the projects, and what is parked: what each is, and its disk use.",
    )
    listing.set_defaults(act=_list)
    collecting = actions.add_parser(
        "gc",
        help="remove what is certainly unused",
        description="Say what is certainly ours and certainly unused for 24 hours; with --yes, remove it. In any "
        "doubt nothing is removed.",
    )
    collecting.add_argument(
        "--yes", action="store_true", help="remove it, instead of only saying what would be"
    )
    collecting.set_defaults(act=_collect)
    restoring = actions.add_parser(
        "restore",
        help="bring back what was parked",
        description="Bring back a parked worktree: its branch, and all files and the index as they were.",
    )
    restoring.add_argument(
        "session", metavar="SESSION", help="the session's id, the beginning of it, or the ref"
    )
    restoring.add_argument("--to", metavar="DIR", type=Path, help="where to; by default where it was")
    restoring.set_defaults(act=_restore)
    for action in (listing, collecting):
        action.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> int:
    import anyio

    code: int = anyio.run(arguments.act, cast("Invocation", arguments), arguments)
    return code


async def _list(invocation: Invocation, arguments: argparse.Namespace) -> int:
    from contextlib import AsyncExitStack

    from relaykit_worktree.known_sessions import known_sessions

    async with AsyncExitStack() as stack:
        try:
            sessions = await stack.enter_async_context(known_sessions(invocation))
        except RelaykitError as error:
            sys.stderr.write(f"relaykit: which sessions there are cannot be told: {error}\n")
            sessions = None
        _show(await _inventory(invocation, sessions).take(), as_json=arguments.json)
    return 0


async def _collect(invocation: Invocation, arguments: argparse.Namespace) -> int:
    from relaykit.clock import SystemClock
    from relaykit_worktree.collecting import candidates, collect
    from relaykit_worktree.known_sessions import known_sessions

    removed: list[Item] = []
    async with known_sessions(invocation) as sessions:
        inventory = _inventory(invocation, sessions)
        found = await candidates(inventory, now=SystemClock().now())
        if not arguments.yes:
            _show(found, as_json=arguments.json)
            if not arguments.json:
                _say(f"{len(found)} would be removed, {_size(_sum(found))}; --yes does it")
            return 0
        failure = None
        for item in found:
            try:
                if await collect(_git(invocation), inventory, item):
                    removed.append(item)
            except (RelaykitError, OSError) as error:
                failure = error
                break
    _show(removed, as_json=arguments.json)
    if not arguments.json:
        _say(f"{len(removed)} of {len(found)} removed, {_size(_sum(removed))}")
    if failure is not None:
        sys.stderr.write(f"relaykit: stopped: {failure}\n")
        return FAILED
    return 0


async def _restore(invocation: Invocation, arguments: argparse.Namespace) -> int:
    from relaykit_worktree.bringing_back import bring_back
    from relaykit_worktree.errors import NotRestored
    from relaykit_worktree.parked import PARKED, list_parked

    git = _git(invocation)
    wanted = arguments.session.removeprefix(PARKED)
    found = [
        (repository, parked)
        for repository in await _inventory(invocation, None).repositories()
        for parked in await list_parked(git, repository.common_dir)
        if parked.ref.removeprefix(PARKED).startswith(wanted)
    ]
    exact = [each for each in found if each[1].ref == PARKED + wanted]
    found = exact or found
    # Two checkouts of one repository hold the same: the one in which it was is meant.
    homes = [each for each in found if Path(each[1].path).is_relative_to(each[0].top_level)]
    found = homes if len({each[1].ref for each in found}) == 1 and homes else found
    if not found:
        raise NotRestored(f"nothing is parked of a session {wanted!r}: see `relaykit worktrees list`")
    if len(found) > 1:
        listed = "".join(f"\n  {parked.ref}  {parked.role}, {parked.path}" for _, parked in found)
        raise NotRestored(f"{wanted!r} means {len(found)} that are parked:{listed}")
    [(repository, parked)] = found
    state_dir = invocation.load_settings().state_dir
    path = await bring_back(git, repository, parked, to=arguments.to, state_dir=state_dir)
    _say(f"{path} is back, on {parked.branch.removeprefix('refs/heads/')}; {parked.ref} was {parked.commit}")
    return 0


def _git(invocation: Invocation) -> Git:
    from relaykit_worktree.git import Git
    from relaykit_worktree.settings import WorktreeSettings

    return Git(invocation.load_settings().plugin("worktree", WorktreeSettings).git_timeout)


def _inventory(invocation: Invocation, sessions: Sessions | None) -> Inventory:
    from relaykit.clock import SystemClock
    from relaykit_worktree.inventory import Inventory
    from relaykit_worktree.settings import WorktreeSettings

    settings = invocation.load_settings()
    return Inventory(
        _git(invocation),
        {name: project.path for name, project in settings.projects.items()},
        sessions=sessions,
        disposable=settings.plugin("worktree", WorktreeSettings).disposable,
        state_dir=settings.state_dir,
        now=SystemClock().now(),
    )


def _show(items: Sequence[Item], *, as_json: bool) -> None:
    from relaykit.clock import SystemClock

    if as_json:
        _say(json.dumps([_as_json(item) for item in items], indent=2))
        return
    now = SystemClock().now()
    rows = [
        (
            item.state,
            item.session,
            item.branch.removeprefix("refs/heads/"),
            _size(item.size),
            _age(item.used, now),
            _printable(item.path),
            _printable(item.why),
        )
        for item in items
    ]
    print_table(_COLUMNS, rows)


def _as_json(item: Item) -> dict[str, Any]:
    return {
        "state": item.state,
        "session": item.session or None,
        "branch": item.branch or None,
        "path": item.path,
        "repository": str(item.repository),
        "bytes": item.size,
        "lastUsed": item.used.isoformat() if item.used else None,
        "why": item.why or None,
        "ref": item.parked.ref if item.parked else None,
        "expires": item.parked.expires.isoformat() if item.parked and item.parked.expires else None,
    }


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _sum(items: Sequence[Item]) -> int:
    return sum(item.size for item in items)


def _size(size: int) -> str:
    shown, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if shown < 1000:  # noqa: PLR2004 -- then the unit is right
            break
        shown, unit = shown / 1000, larger
    return f"{shown:.0f} {unit}" if unit == "B" else f"{shown:.1f} {unit}"


def _age(used: datetime | None, now: datetime) -> str:
    if used is None:
        return ""
    seconds = max(0, int((now - used).total_seconds()))
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h" if seconds >= _HOUR else f"{seconds // 60} min"
    return f"{seconds // _DAY} d"


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


WORKTREES = Command(
    name="worktrees",
    help="list worktrees, collect what nobody needs, bring back what was parked",
    configure=_configure,
    run=_run,
)
