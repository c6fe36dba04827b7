"""Brings a parked worktree back: branch, files, index, as they were."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePath

from anyio import to_thread

from relaykit_worktree.errors import NotRestored, os_failed
from relaykit_worktree.files import expand, look_at_files
from relaykit_worktree.git import Git
from relaykit_worktree.parked import Parked
from relaykit_worktree.repository import Checkout
from relaykit_worktree.snapshot import is_there, snapshot


async def fill(checkout: Checkout, parked: Parked) -> None:
    """Bring everything back into a worktree that was just made at the parked HEAD, and see that it is the same.

    :raises WorkspaceError: it is not.
    """
    await checkout.run("read-tree", "--reset", "-u", "--no-recurse-submodules", parked.commit)
    try:
        await to_thread.run_sync(_set_modes, checkout.path, parked.modes)
    except OSError as error:
        raise os_failed(f"cannot set permissions in {str(checkout.path)!r}", error) from error
    # The index alone: what it does not have is untracked, or ignored, again.
    await checkout.run("read-tree", "--reset", parked.index or parked.head)
    files = await look_at_files(checkout, None, ())
    names = await to_thread.run_sync(
        expand, checkout.path, [*files.staged, *files.changed, *files.untracked, *files.ignored], ()
    )
    async with snapshot(checkout, names) as taken:
        await taken.verify()
        indexed = parked.index or parked.head
        expected = [
            (await checkout.run("rev-parse", "--verify", f"{commit}^{{tree}}")).strip()
            for commit in (indexed, parked.commit)
        ]
        if [taken.index, taken.tree] != expected:
            raise NotRestored(
                f"what was brought back from {parked.ref} is not what was parked: it stays there, and "
                f"`git worktree add --detach DIRECTORY {parked.ref}` gives its files"
            )


async def drop(git: Git, repository: Path, parked: Parked) -> None:
    """Delete the ref, if it is still what it was. git keeps its objects for about two weeks more."""
    await git.change(repository, "update-ref", "-d", parked.ref, parked.commit)


def _set_modes(root: Path, modes: Mapping[str, int]) -> None:
    for name, mode in modes.items():
        if ".." in PurePath(name).parts or not is_there(root, name):  # then no relay has written it
            raise NotRestored(f"there is no file {name!a} to give the permissions {mode:o}")
        descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
