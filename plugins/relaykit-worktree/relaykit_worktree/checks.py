"""What ``relaykit doctor`` says of git, of the projects' repositories, and of worktrees that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from anyio import to_thread

from relaykit.errors import NotARepository, WorkspaceError
from relaykit.hooks.registration import Check, Finding, Surroundings, Verdict
from relaykit_worktree.facts import read_claim
from relaykit_worktree.git import Git
from relaykit_worktree.records import ListedWorktree
from relaykit_worktree.repository import (
    DIRECTORY,
    find_repository,
    list_worktrees,
    open_checkout,
    resolve_commit,
)


class Checks:
    """Looks at the repositories of all projects, and changes nothing.

    :param base: the revision from which a role's new branch starts.
    """

    def __init__(self, projects: Mapping[str, Path], *, git: Git, base: str, name: str) -> None:
        self._projects = projects
        self._git = git
        self._base = base
        self._name = name

    def all(self) -> Sequence[Check]:
        """Return the plugin's checks."""
        return [
            Check(name="git", look=self.look_at_git),
            Check(name="worktrees", look=self.look_at_worktrees),
        ]

    async def look_at_git(self, surroundings: Surroundings) -> Sequence[Finding]:
        """Say which git there is, and whether worktrees can be made of every project."""
        if surroundings.workspace != self._name:
            return []
        try:
            version = await self._git.run(Path.cwd(), "--version")
        except WorkspaceError as error:
            return [Finding(verdict=Verdict.TROUBLE, what=str(error), fix=_ANOTHER_WORKSPACE)]
        found = [Finding(verdict=Verdict.OK, what=version.strip())]
        for name, project in self._projects.items():
            if await to_thread.run_sync(project.is_dir):
                found.append(await self._look_at_project(name, project))
        return found

    async def _look_at_project(self, name: str, project: Path) -> Finding:
        try:
            await find_repository(self._git, project)
            commit = await resolve_commit(self._git, project, self._base)
        except WorkspaceError as error:
            # What else may be wrong says itself what to do: another base, a first commit, git's own `safe.directory`.
            fix = (
                f"`git init`, or {_ANOTHER_WORKSPACE}"
                if isinstance(error, NotARepository)
                else _ANOTHER_WORKSPACE
            )
            return Finding(verdict=Verdict.TROUBLE, what=f"project {name!r}: {error}", fix=fix)
        return Finding(
            verdict=Verdict.OK, what=f"project {name!r} is a repository; roles begin at {commit[:12]}"
        )

    async def look_at_worktrees(self, surroundings: Surroundings) -> Sequence[Finding]:
        """Say which worktrees are there although their sessions are not."""
        found: list[Finding] = []
        seen: set[Path] = set()
        for project in self._projects.values():
            try:
                repository = await find_repository(self._git, project)
            except (WorkspaceError, OSError):
                continue  # the other check has said so, if it matters
            if repository.common_dir in seen:
                continue
            seen.add(repository.common_dir)
            listing = await list_worktrees(self._git, repository.common_dir)
            ours = [listed for listed in listing if DIRECTORY in listed.path.parts]
            found += [
                await self._look_at_worktree(listed, repository.common_dir, surroundings) for listed in ours
            ]
        return found

    async def _look_at_worktree(
        self, listed: ListedWorktree, common_dir: Path, surroundings: Surroundings
    ) -> Finding:
        branch = (listed.branch or "no branch").removeprefix("refs/heads/")
        what = f"{listed.path} ({branch})"
        if surroundings.sessions is None:
            return Finding(verdict=Verdict.OK, what=f"{what}: the relay that runs knows whose it is")
        try:
            checkout = await open_checkout(self._git, listed.path, common_dir)
            claim = await to_thread.run_sync(read_claim, checkout.git_dir)
        except (WorkspaceError, OSError) as error:
            return Finding(
                verdict=Verdict.WARNING, what=f"{what}: {error}", fix="`git worktree prune`, or repair it"
            )
        if claim is not None and claim.session in surroundings.sessions:
            return Finding(verdict=Verdict.OK, what=f"{what} is session {claim.session}'s")
        return Finding(
            verdict=Verdict.WARNING,
            what=f"{what} was kept, and its session is gone",
            fix="a session of the same role takes it up; `relaykit worktrees list` says what is in it, and `gc` "
            "removes it if that is nothing",
        )


_ANOTHER_WORKSPACE = 'set `workspace = "in_place"` in [relay]'
