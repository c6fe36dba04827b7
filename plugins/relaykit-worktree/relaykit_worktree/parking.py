"""Parks a worktree: all that is in it goes into a commit that a ref holds, is verified there, and then taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import anyio

from relaykit.session import Session
from relaykit_worktree.errors import GitError, NotParked
from relaykit_worktree.facts import Facts
from relaykit_worktree.git import Git
from relaykit_worktree.parked import PARKED, Parked, list_parked, ref_of
from relaykit_worktree.repository import Checkout
from relaykit_worktree.snapshot import DURABLE, snapshot


async def park(
    checkout: Checkout,
    facts: Facts,
    session: Session,
    names: Sequence[str],
    *,
    at: datetime,
    expires: datetime | None,
) -> Parked:
    """Put everything in the worktree into a ref, and leave the worktree as its HEAD is, for git to remove.

    git takes away what was parked, and only that: if anything does not stand there any more as it was parked, it
    refuses, and touches nothing. Until then the worktree is as it was; from then on the ref holds what was in it.

    :param names: the files in which the working tree differs from the index.
    :param at: now.
    :raises WorkspaceError: it could not be parked as it is, or not be taken away: then the message names the ref.
    """
    git, repository = checkout.git, Path(facts.repository)
    async with snapshot(checkout, names) as taken:
        ref = await _free_ref(git, repository, session.id)
        modes = await taken.verify()
        index = None
        if taken.index != (await checkout.run("rev-parse", "--verify", "HEAD^{tree}")).strip():
            message = f"relaykit: the index of session {session.id}\n"
            index = await _commit(checkout, taken.index, message, at, taken.head)
        parked = Parked(
            session=session.id,
            role=session.agent_id,
            owner=session.owner,
            project=session.project,
            branch=facts.branch,
            base=facts.base,
            path=facts.path,
            at=at,
            expires=expires,
            modes=modes,
            ref=ref,
            head=taken.head,
            index=index,
        )
        parents = (taken.head,) if index is None else (taken.head, index)
        commit = await _commit(checkout, taken.tree, parked.message(), at, *parents)
        parked = replace(parked, commit=commit)
        with anyio.CancelScope(shield=True):
            await git.change(repository, *DURABLE, "update-ref", ref, commit, "")
            await _read_back(git, repository, parked, taken.tree)
            try:
                await taken.run("read-tree", "-m", "-u", "--no-recurse-submodules", taken.tree, taken.head)
                await checkout.run("read-tree", "--reset", taken.head)
            except GitError as error:
                raise NotParked(
                    f"what was in it is in {ref}, but git did not take it away: {error}"
                ) from error
    return parked


async def _read_back(git: Git, repository: Path, parked: Parked, tree: str) -> None:
    """See that the ref says what it was to say."""
    found = await list_parked(git, repository, parked.ref)
    stored = (await git.run(repository, "rev-parse", "--verify", f"{parked.ref}^{{tree}}")).strip()
    if list(found) != [parked] or stored != tree:
        raise NotParked(f"{parked.ref} does not hold what it was given")


async def _commit(checkout: Checkout, tree: str, message: str, at: datetime, *parents: str) -> str:
    arguments = [argument for parent in parents for argument in ("-p", parent)]
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (
            ("NAME", "relaykit"),
            ("EMAIL", "relaykit@localhost"),
            ("DATE", f"{int(at.timestamp())} +0000"),
        )
    }
    made = await checkout.run(
        *("-c", "i18n.commitEncoding=UTF-8", *DURABLE, "commit-tree", tree, *arguments),
        stdin=message.encode(),
        environment=who,
    )
    return made.strip()


async def _free_ref(git: Git, repository: Path, session_id: str) -> str:
    """Return a name for the ref that nothing has: a session may be parked, revived, and parked again."""
    wanted = ref_of(session_id)
    taken = (await git.run(repository, "for-each-ref", "--format=%(refname)", PARKED)).splitlines()
    return next(
        name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, len(taken) + 3))) if name not in taken
    )
