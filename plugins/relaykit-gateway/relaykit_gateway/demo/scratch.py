"""Scratch: a temporary directory with a git repository in it, and what relaykit may leave there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.errors import RelaykitError

_README = "# A scratch repository\n\nMade by `relaykit demo`, and gone when it ends.\n"
_AUTHOR = (
    "-c",
    "user.name=relaykit demo",
    "-c",
    "user.email=demo@relaykit.invalid",
    "-c",
    "commit.gpgSign=false",
)


class DemoFailed(RelaykitError):
    """Something is not as it should be. The message says what."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where the demo plays; nothing outside it is touched.

    :param root: absolute, without symbolic links.
    """

    root: Path

    @property
    def repository(self) -> Path:
        """The project."""
        return self.root / "project"

    @property
    def state_dir(self) -> Path:
        """The relay's state directory."""
        return self.root / "state"

    async def worktrees(self) -> Sequence[Path]:
        """Return the repository's worktrees, but for the main one."""
        listed = await _git(self.repository, "worktree", "list", "--porcelain")
        paths = [
            line.removeprefix("worktree ") for line in listed.splitlines() if line.startswith("worktree ")
        ]
        return [Path(path) for path in paths[1:]]

    async def branches(self) -> Sequence[str]:
        """Return the repository's branches, but for ``main``."""
        listed = await _git(self.repository, "branch", "--format=%(refname:short)")
        return [name for name in listed.split() if name != "main"]


@asynccontextmanager
async def open_scratch() -> AsyncIterator[Scratch]:
    """Make the directory and the repository; remove both at the end, whatever happens.

    :raises DemoFailed: git is missing, or fails; or the directory cannot be removed.
    """
    if shutil.which("git") is None:
        raise DemoFailed("the program 'git' was not found: install git 2.36 or newer")
    with anyio.CancelScope(shield=True):  # a directory that nobody knows of would stay
        scratch = Scratch(await to_thread.run_sync(_make))
    try:
        await to_thread.run_sync(scratch.repository.mkdir)
        await anyio.Path(scratch.repository / "README.md").write_text(_README)
        await _git(scratch.repository, "-c", "init.defaultBranch=main", "init", "--quiet")
        await _git(scratch.repository, "add", "README.md")
        await _git(scratch.repository, *_AUTHOR, "commit", "--quiet", "--no-verify", "-m", "A beginning")
        yield scratch
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(_remove, scratch.root)


def _make() -> Path:
    return Path(tempfile.mkdtemp(prefix="relaykit-demo-")).resolve()


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except OSError as error:
        raise DemoFailed(f"the scratch directory {str(directory)!r} cannot be removed: {error}") from error


async def _git(directory: Path, /, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    done = await anyio.run_process(
        command, stdin=subprocess.DEVNULL, env=_environment(), check=False, start_new_session=True
    )
    if done.returncode:
        raise DemoFailed(f"`{' '.join(command)}` failed: {done.stderr.decode(errors='replace').strip()}")
    return os.fsdecode(done.stdout)


def _environment() -> Mapping[str, str]:
    """Return an environment in which git knows nothing of the user's configuration and repositories."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**inherited, "LC_ALL": "C", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
