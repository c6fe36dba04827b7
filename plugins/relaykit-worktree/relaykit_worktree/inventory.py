"""The inventory: every worktree of ours, every directory where they are, everything parked, and what each is."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from anyio import to_thread

from relaykit.errors import NotARepository, WorkspaceError
from relaykit_worktree.errors import GitError
from relaykit_worktree.facts import CLAIM, Claim, Facts, read_claim, read_maker
from relaykit_worktree.git import Git
from relaykit_worktree.inspection import inspect, inspect_branch
from relaykit_worktree.parked import Parked, list_parked
from relaykit_worktree.processes import is_gone
from relaykit_worktree.records import ListedWorktree
from relaykit_worktree.removal import is_missing
from relaykit_worktree.repository import DIRECTORY, Repository, find_repository, list_worktrees, open_checkout

_BRANCHES = "refs/heads/relaykit/"
_SIGNS_OF_LIFE = (CLAIM, "HEAD", "index", "locked", "logs/HEAD")


class State(StrEnum):
    """What a worktree, or something parked, is."""

    IN_USE = "in use"
    KEPT = "kept"  # no session has it, but there is work in it, or something else speaks against removing it
    UNUSED = "unused"  # nobody has it, and nothing is lost without it
    UNFINISHED = "unfinished"  # a relay was killed over its making
    GONE = "gone"  # its directory was deleted
    UNKNOWN = "unknown"  # it cannot be told whose it is: it is left alone
    PARKED = "parked"
    EXPIRED = "expired"  # parked for as long as it was to be


REMOVABLE = frozenset({State.UNUSED, State.UNFINISHED, State.GONE, State.EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The sessions that there are.

    :param ids: of all of them.
    :param directories: where their agents work.
    :param relay: the process that has told of them; None: they were read from the storage, and no relay runs.
    """

    ids: Collection[str]
    directories: Collection[str]
    relay: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing of the inventory.

    :param path: of the worktree's root, also where it is parked.
    :param session: who holds it, or held it last; empty if that is not known.
    :param why: what speaks against removing it, or why it is what it is.
    :param used: the last sign of life; None if there is none.
    :param size: bytes on the disk.
    """

    repository: Path
    path: str
    state: State
    branch: str = ""
    session: str = ""
    why: str = ""
    used: datetime | None = None
    size: int = 0
    claim: Claim | None = field(default=None, repr=False)
    parked: Parked | None = field(default=None, repr=False)

    def facts(self, tip: str) -> Facts:
        """Return what a session would have recorded of it that had found branch and worktree there."""
        return Facts(
            repository=str(self.repository),
            path=self.path,
            branch=self.branch,
            base=tip,
            branch_existed=True,
            adopted=True,
        )


class Inventory:
    """Looks at the repositories of all projects, and changes nothing.

    :param sessions: those that there are; None if that cannot be told: then what a session may have is unknown.
    :param state_dir: whose worktrees are ours.
    :param now: aware.
    """

    def __init__(
        self,
        git: Git,
        projects: Mapping[str, Path],
        *,
        sessions: Sessions | None,
        disposable: Sequence[str],
        state_dir: Path,
        now: datetime,
    ) -> None:
        self._git = git
        self._projects = projects
        self._sessions = sessions
        self._disposable = disposable
        self._state_dir = str(state_dir)
        self._now = now

    async def repositories(self) -> Sequence[Repository]:
        """Return the projects' repositories, each once.

        :raises WorkspaceError: git fails. A project that is in no repository has nothing of ours.
        """
        found: dict[tuple[Path, Path], Repository] = {}
        for project in self._projects.values():
            try:
                repository = await find_repository(self._git, project)
            except GitError:
                if await to_thread.run_sync(project.is_dir):
                    raise
                continue
            except NotARepository:
                continue
            found.setdefault((repository.common_dir, repository.top_level), repository)
        return list(found.values())

    async def take(self) -> Sequence[Item]:
        """Return everything that there is.

        :raises WorkspaceError: something could not be told. What is odd about one worktree is its state instead.
        :raises OSError: a directory cannot be read.
        """
        items: list[Item] = []
        seen: set[Path] = set()
        for repository in await self.repositories():
            if repository.common_dir not in seen:
                seen.add(repository.common_dir)
                items += await self._worktrees(repository)
                items += await self._parked(repository)
            known = {item.path for item in items}
            items += await to_thread.run_sync(_strangers, repository, known)
        return items

    async def look_again(self, item: Item) -> Item | None:
        """Return what a worktree is now; None if it is not there any more. Call it in the repository's turn."""
        listing = await list_worktrees(self._git, item.repository)
        listed = next((each for each in listing if str(each.path) == item.path), None)
        return None if listed is None else await self._look_at(item.repository, listed, listing)

    async def _worktrees(self, repository: Repository) -> list[Item]:
        listing = await list_worktrees(self._git, repository.common_dir)
        return [
            await self._look_at(repository.common_dir, listed, listing)
            for listed in listing[1:]
            if DIRECTORY in listed.path.parts or (listed.branch or "").startswith(_BRANCHES)
        ]

    async def _parked(self, repository: Repository) -> list[Item]:
        items = []
        for parked in await list_parked(self._git, repository.common_dir):
            expired = parked.expires is not None and parked.expires <= self._now
            until = f", until {parked.expires:%Y-%m-%d}" if parked.expires is not None else ""
            # What no other ref holds.
            size = await self._git.run(
                repository.common_dir,
                *("rev-list", "--disk-usage", "--objects", parked.commit, "--not"),
                *(f"--exclude={parked.ref}", "--glob=refs/*"),
            )
            items.append(
                Item(
                    repository=repository.common_dir,
                    path=parked.path,
                    state=State.EXPIRED if expired else State.PARKED,
                    branch=parked.branch,
                    session=parked.session,
                    why=f"in {parked.ref}{until}",
                    used=parked.at,
                    size=int(size),
                    parked=parked,
                )
            )
        return items

    async def _look_at(
        self, common_dir: Path, listed: ListedWorktree, listing: Sequence[ListedWorktree]
    ) -> Item:
        git_dir = await to_thread.run_sync(_git_dir_of, common_dir, listed.path)
        claim = await to_thread.run_sync(read_claim, git_dir) if git_dir is not None else None
        maker = read_maker(listed.locked)
        item = Item(
            repository=common_dir,
            path=str(listed.path),
            state=State.UNKNOWN,
            branch=listed.branch or "",
            session=claim.session if claim else maker.session if maker else "",
            used=await to_thread.run_sync(_last_used, listed.path, git_dir),
            size=await to_thread.run_sync(disk_use, listed.path),
            claim=claim,
        )
        if maker is not None:
            return self._unfinished(item, gone=is_gone(maker.process, maker.started))
        doubt = self._doubt(item, claim)
        if doubt is not None:
            return replace(item, state=doubt[0], why=doubt[1])
        return await self._inspected(item, listed, listing)

    def _unfinished(self, item: Item, *, gone: bool) -> Item:
        if not gone:
            return replace(item, state=State.IN_USE, why="it is being made")
        if self._sessions is None:
            return replace(item, why="whether its session is there cannot be told")
        if item.session in self._sessions.ids:
            return replace(item, state=State.IN_USE, why="the relay was killed over it; its session is there")
        return replace(item, state=State.UNFINISHED, why="a relay was killed over its making")

    def _doubt(self, item: Item, claim: Claim | None) -> tuple[State, str] | None:
        """Return whose the worktree is if it is not certainly ours and free; else None."""
        if DIRECTORY not in Path(item.path).parts or not item.branch.startswith(_BRANCHES):
            unknown = "it is not at one of our places, or on none of our branches"
        elif claim is None:
            unknown = "no relay says that it is its own"
        elif claim.state_dir != self._state_dir:
            unknown = f"a relay with the state directory {claim.state_dir or '?'} has made it"
        elif self._sessions is None:
            unknown = "whether its session is there cannot be told"
        else:
            return self._use(item, claim, self._sessions)
        return State.UNKNOWN, unknown

    def _use(self, item: Item, claim: Claim, sessions: Sessions) -> tuple[State, str] | None:
        if claim.session in sessions.ids:
            return State.IN_USE, f"session {claim.session}"
        path = Path(item.path)
        if any(Path(each).is_relative_to(path) for each in sessions.directories):
            return State.IN_USE, "the agent of a session works in it"
        if claim.process not in {0, sessions.relay} and not is_gone(claim.process, claim.started):
            return State.IN_USE, f"process {claim.process}, which has taken it, still runs"
        return None

    async def _inspected(self, item: Item, listed: ListedWorktree, listing: Sequence[ListedWorktree]) -> Item:
        path = listed.path
        if await to_thread.run_sync(is_missing, path):
            findings = await inspect_branch(self._git, item.facts(listed.head or ""), listing)
            why = "; ".join([*findings.obstacles, *findings.work])
            locked = listed.locked is not None
            return replace(
                item, state=State.KEPT if locked else State.GONE, why="it is locked" if locked else why
            )
        try:
            checkout = await open_checkout(self._git, path, item.repository)
        except WorkspaceError as error:
            return replace(item, why=str(error))
        findings = await inspect(checkout, item.facts(listed.head or ""), listing, self._disposable)
        reasons = [*findings.obstacles, *findings.work]
        return replace(item, state=State.KEPT if reasons else State.UNUSED, why="; ".join(reasons))


def disk_use(path: Path) -> int:
    """Return the bytes that a directory takes on the disk; links are not followed. Blocks."""
    total = 0
    for directory, _, files in os.walk(path):
        for name in (".", *files):
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512  # noqa: PTH118 -- names may be no text
            except FileNotFoundError:  # somebody is at work in it
                continue
    return total


def _git_dir_of(common_dir: Path, path: Path) -> Path | None:
    """Return git's own directory for a worktree, also of one whose directory is gone."""
    for entry in sorted((common_dir / "worktrees").glob("*")):
        try:
            named = os.fsdecode((entry / "gitdir").read_bytes().rstrip(b"\n"))
        except FileNotFoundError:
            continue
        if Path(os.path.normpath(entry / named)) == path / ".git":
            return entry
    return None


def _last_used(path: Path, git_dir: Path | None) -> datetime | None:
    signs = [path] if git_dir is None else [path, *(git_dir / name for name in _SIGNS_OF_LIFE)]
    times = []
    for sign in signs:
        try:
            times.append(sign.stat().st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _strangers(repository: Repository, known: Collection[str]) -> list[Item]:
    """Return the directories where our worktrees are that git does not list as such."""
    root = repository.top_level / DIRECTORY / "worktrees"
    return [
        Item(
            repository=repository.common_dir,
            path=str(path),
            state=State.UNKNOWN,
            why="git does not list it as a worktree",
            used=_last_used(path, None),
            size=disk_use(path),
        )
        for path in _roles(root)
        if str(path) not in known
    ]


def _roles(root: Path) -> Iterator[Path]:
    if not root.is_dir() or root.is_symlink():
        return
    for path in sorted(root.iterdir()):
        if path.name.startswith("@") and path.is_dir() and not path.is_symlink():
            yield from sorted(path.iterdir())
        else:
            yield path
