"""A snapshot of a worktree in git's objects: its index, and all that its working tree holds, byte by byte."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

import anyio
from anyio import to_thread

from relaykit_worktree.errors import GitError, NotParked
from relaykit_worktree.files import same_content
from relaykit_worktree.repository import Checkout

_PLAIN_INDEX = ("-c", "core.splitIndex=false", "-c", "core.untrackedCache=false")
# What is not on the disk when the power fails is not parked.
DURABLE = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=batch")
_GONE = f"0 {'0' * 40}\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a worktree held. Its index file is of no use once `snapshot` is left.

    :param names: the files that were taken from the working tree, or are not there.
    :param index: the tree of the index.
    :param tree: the tree of the working tree.
    """

    checkout: Checkout
    names: Sequence[str]
    head: str
    index: str
    tree: str
    index_file: Path

    async def run(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run git on the worktree with an index that is the working tree, in place of the worktree's own."""
        return await _run(self.checkout, self.index_file, *arguments, stdin=stdin)

    async def verify(self) -> Mapping[str, int]:
        """See that the tree gives the working tree as it is: what it has is checked out elsewhere, and compared.

        :return: the permissions of files for which git would make them otherwise.
        :raises NotParked: it does not: git's filters change a file, or somebody has just done so.
        """
        try:
            await self.run("diff-index", "--cached", "--quiet", "--ignore-submodules=none", self.tree)
        except GitError as error:
            if error.exit_code != 1:
                raise
            raise NotParked("what git has written is not what it was given") from error
        there, _ = await to_thread.run_sync(_apart, self.checkout.path, self.names)
        scratch = self.checkout.git_dir / "relaykit-verifying"
        try:
            await to_thread.run_sync(_remove, scratch)
            if there:
                await self.run(
                    *("checkout-index", "-z", "--stdin", f"--prefix={scratch}/"), stdin=_lines(there)
                )
            return await to_thread.run_sync(_compare, self.checkout.path, scratch, there)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_remove, scratch)


@asynccontextmanager
async def snapshot(checkout: Checkout, names: Sequence[str]) -> AsyncIterator[Snapshot]:
    """Write the worktree's index and working tree into objects. Neither is touched.

    :param names: the files in which the working tree differs from the index: changed, deleted, untracked, ignored.
    :raises GitError: git cannot write or read something. Objects that no ref holds may be left.
    """
    index_file = checkout.git_dir / "relaykit-parking.index"
    try:
        await to_thread.run_sync(_copy_index, checkout.git_dir, index_file)
        index = (await _run(checkout, index_file, "write-tree")).strip()
        there, gone = await to_thread.run_sync(_apart, checkout.path, names)
        if gone:
            listed = "".join(f"{_GONE}{name}\0" for name in gone)
            await _run(checkout, index_file, "update-index", "-z", "--index-info", stdin=os.fsencode(listed))
        if there:
            await _run(
                checkout,
                index_file,
                *("update-index", "--add", "--replace", "-z", "--stdin"),
                stdin=_lines(there),
            )
        tree = (await _run(checkout, index_file, "write-tree")).strip()
        head = (await checkout.run("rev-parse", "--verify", "HEAD^{commit}")).strip()
        yield Snapshot(
            checkout=checkout, names=names, head=head, index=index, tree=tree, index_file=index_file
        )
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(_remove, index_file)


async def _run(checkout: Checkout, index_file: Path, *arguments: str, stdin: bytes = b"") -> str:
    return await checkout.run(
        *_PLAIN_INDEX, *DURABLE, *arguments, stdin=stdin, environment={"GIT_INDEX_FILE": str(index_file)}
    )


def _copy_index(git_dir: Path, index_file: Path) -> None:
    _remove(index_file)
    shutil.copy2(git_dir / "index", index_file)  # with its time: by that git knows which entries it can trust


def _apart(root: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    there: list[str] = []
    gone: list[str] = []
    for name in dict.fromkeys(names):
        (there if is_there(root, name) else gone).append(name)
    return there, gone


def is_there(root: Path, name: str) -> bool:
    """Tell whether there is such a file or link, and no link leads to it. Blocks."""
    parts = PurePath(name).parts
    path = root
    for part in parts[:-1]:
        path /= part
        if not _is_directory(path):
            return False
    return os.path.lexists(root / name) and not _is_directory(root / name)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _compare(root: Path, scratch: Path, names: Sequence[str]) -> dict[str, int]:
    modes = {}
    for name in names:
        try:
            alike = same_content(root / name, scratch / name)
        except FileNotFoundError:
            alike = False
        if not alike:
            raise NotParked(
                f"{name!a} would not come back as it is: git's filters change it, or it has just been changed"
            )
        here, there = (root / name).lstat(), (scratch / name).lstat()
        if not stat.S_ISLNK(here.st_mode) and stat.S_IMODE(here.st_mode) != stat.S_IMODE(there.st_mode):
            modes[name] = stat.S_IMODE(here.st_mode)
    return modes


def _lines(names: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
