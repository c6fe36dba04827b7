"""Fetches the remote branch from which a role's new branch is to start."""

from __future__ import annotations

from pathlib import Path

from relaykit_worktree.errors import BaseNotFetched, GitError
from relaykit_worktree.git import Git


async def fetch_base(git: Git, common_dir: Path, base: str) -> None:
    """Bring the remote's branch that `base` names up to date: ``origin/main`` or ``refs/remotes/origin/main``.

    Nothing else is fetched, no tags and no submodules, and a person's ``FETCH_HEAD`` stays as it is. Fetches into
    one repository wait for each other.

    :raises BaseNotFetched: `base` is no remote's branch, or the fetch failed or took too long. It is not made up
        for with what was fetched last: who asks for the newest is not to work on something old unawares.
    """
    async with git.turn_to_fetch(common_dir):
        try:
            remotes = (await git.run(common_dir, "remote")).splitlines()
        except GitError as error:
            raise BaseNotFetched(base, str(common_dir), str(error)) from error
        name = base.removeprefix("refs/remotes/").removeprefix("remotes/")
        # A remote's name may have slashes: the longest one counts, as in git's own configuration.
        remote = max((each for each in remotes if name.startswith(f"{each}/")), key=len, default=None)
        if remote is None:
            known = ", ".join(remotes) or "none"
            raise BaseNotFetched(base, str(common_dir), f"it is no branch of a remote; remotes: {known}")
        branch = name.removeprefix(f"{remote}/")
        try:
            await git.run(
                common_dir,
                *("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"),
                *("--", remote, f"+refs/heads/{branch}:refs/remotes/{remote}/{branch}"),
            )
        except GitError as error:
            raise BaseNotFetched(base, str(common_dir), error.stderr or str(error)) from error
