"""``relaykit worktrees restore``: a parked worktree becomes one again, with its branch, where it was or elsewhere."""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit_worktree import restoring
from relaykit_worktree.errors import NotRestored
from relaykit_worktree.facts import Claim, Facts
from relaykit_worktree.git import Git
from relaykit_worktree.making import Making, check_own_directories, is_in_the_way
from relaykit_worktree.parked import Parked
from relaykit_worktree.repository import DIRECTORY, Repository, branch_tip, exclude, list_worktrees


async def bring_back(
    git: Git, repository: Repository, parked: Parked, *, to: Path | None, state_dir: Path
) -> Path:
    """Make the worktree again, with its branch, and everything in it as it was; then drop the ref.

    Nothing is overwritten. If it fails, or is cancelled, it is still parked, and nothing else is left.

    :param to: where; None: where it was.
    :raises NotRestored: something is in the way.
    :raises WorkspaceError: git fails, or what was brought back is not what was parked.
    """
    path = await to_thread.run_sync(_target, repository, parked, to)
    facts = Facts(
        repository=str(repository.common_dir),
        path=str(path),
        branch=parked.branch,
        base=parked.head,
        branch_existed=await _has_branch(git, repository, parked),
        adopted=False,
    )
    # No process holds it: it waits for the role's next session.
    making = Making(git, facts, Claim(parked.session, parked.project, state_dir=str(state_dir)))
    try:
        async with git.turn(repository.common_dir):
            await exclude(repository.common_dir)
            checkout = await making.begin()
        await restoring.fill(checkout, parked)
        await making.finish(checkout)
    except BaseException as error:
        await making.undo(error)
        raise
    await restoring.drop(git, repository.common_dir, parked)
    return path


async def _has_branch(git: Git, repository: Repository, parked: Parked) -> bool:
    """Tell whether the branch is there, where it was; see that nothing else has it.

    :raises NotRestored: it is elsewhere, or checked out.
    """
    tip = await branch_tip(git, repository.common_dir, parked.branch)
    if tip is None:
        return False
    short = parked.branch.removeprefix("refs/heads/")
    listing = await list_worktrees(git, repository.common_dir)
    where = next((each.path for each in listing if each.branch == parked.branch), None)
    if where is not None or tip != parked.head:
        how = f"is checked out in {str(where)!r}" if where is not None else "is at another commit by now"
        raise NotRestored(
            f"the branch {short!r} {how}: end its session, or rename it (`git branch -m {short} NAME`); or have the "
            f"files alone, by `git worktree add --detach DIRECTORY {parked.ref}`"
        )
    return True


def _target(repository: Repository, parked: Parked, to: Path | None) -> Path:
    path = Path(to if to is not None else parked.path).absolute()
    if to is None:
        root = repository.top_level / DIRECTORY / "worktrees"
        if not path.is_relative_to(root) or path == root:
            raise NotRestored(
                f"{str(path)!r}, where it was, is no place of ours in {str(repository.top_level)!r}: say --to DIRECTORY"
            )
        try:
            check_own_directories(repository.top_level, path.parent)
        except WorkspaceError as error:
            raise NotRestored(str(error)) from error
    if is_in_the_way(path):
        raise NotRestored(
            f"{str(path)!r} is there already, and is not overwritten: move it away, or say --to DIRECTORY"
        )
    return path
