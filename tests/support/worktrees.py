"""Real git repositories, and sessions that get worktrees in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import anyio

from relaykit.agent import Record
from relaykit.clock import Clock, SystemClock
from relaykit.session import Activity, CleanerResult, Json, Session
from relaykit_worktree.cleaner import WorktreeCleaner
from relaykit_worktree.git import Git
from relaykit_worktree.settings import WorktreeSettings
from relaykit_worktree.workspace import WorktreeWorkspace
from support.plugin_sites import RecordingMeter

IDENTITY = "[user]\n\tname = Somebody\n\temail = somebody@example.org\n"
"""A configuration for GIT_CONFIG_GLOBAL, so that tests pass where nobody told git who they are."""

_MAY_STAY = {".git/worktrees", ".git/refs/heads/relaykit", ".git/logs/refs/heads/relaykit"}

_WHEN = datetime(2025, 1, 1, tzinfo=UTC)


def git(directory: Path, *arguments: str) -> str:
    """Run git and return its output; fail loudly."""
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return os.fsdecode(done.stdout)


def commit(directory: Path, name: str, content: str = "content\n") -> str:
    """Commit one file and return the commit's id."""
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(content)
    git(directory, "add", "--", name)
    git(directory, "commit", "-qm", f"add {name!r}")
    return git(directory, "rev-parse", "HEAD").strip()


def make_repository(path: Path) -> Path:
    """Make a repository with one commit and some ignore rules."""
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", "main")
    (path / "docs").mkdir()
    (path / "docs" / "guide.md").write_text("guide\n")
    (path / ".gitignore").write_text("node_modules/\nbuild/\n*.log\n__pycache__/\nsecret.env\nprivate/\n")
    (path / "code.py").write_text("print('hello')\n")
    git(path, "add", ".")
    git(path, "commit", "-qm", "one")
    return path


def make_session(session_id: str = "s1", *, agent_id: str = "auth", **values: str) -> Session:
    """Make a session as the Manager would hand it to a workspace."""
    owner, project = values.get("owner", "local"), values.get("project", "shop")
    return Session(
        id=session_id,
        agent_id=agent_id,
        agent="echo",
        owner=owner,
        project=project,
        node="local",
        created_at=_WHEN,
        activity=Activity(_WHEN),
    )


@dataclass
class Bench:
    """A workspace and its cleaner over one repository, and what sessions recorded."""

    repository: Path
    projects: Mapping[str, Path] = field(default_factory=dict)
    git: Git = field(default_factory=lambda: Git(20))
    settings: WorktreeSettings = field(default_factory=WorktreeSettings)
    clock: Clock = field(default_factory=SystemClock)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    recorded: dict[str, Json] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    heard: Callable[[str], None] = lambda _text: None
    meter: RecordingMeter = field(default_factory=RecordingMeter)

    def workspace(self) -> WorktreeWorkspace:
        """Make the workspace."""
        return WorktreeWorkspace(
            self.projects or {"shop": self.repository},
            git=self.git,
            settings=self.settings,
            state_dir=self.repository.parent / "state",
            environ=self.environ,
        )

    def cleaner(self) -> WorktreeCleaner:
        """Make the cleaner."""
        return WorktreeCleaner(git=self.git, settings=self.settings, clock=self.clock, meter=self.meter)

    async def prepare(self, session: Session) -> Path:
        """Prepare a worktree, and keep what was recorded and said."""
        return await self.workspace().prepare(session, self.recorder(session), self.say)

    def recorder(self, session: Session) -> Record:
        """Return what keeps what is recorded of a session."""

        async def record(facts: Json) -> None:
            self.recorded[session.id] = facts

        return record

    async def say(self, text: str) -> None:
        """Keep what is said."""
        self.said.append(text)
        self.heard(text)

    def with_resources(self, session: Session) -> Session:
        """Return the session as the store would give it back."""
        facts = self.recorded.get(session.id)
        return session if facts is None else replace(session, resources={"worktree": facts})

    async def clean(self, session: Session) -> CleanerResult:
        """Clean from what was recorded alone."""
        return await self.cleaner().clean(self.with_resources(session), None)


def git_dir_of(path: Path) -> Path:
    """Return git's own directory for a worktree."""
    return Path(git(path, "rev-parse", "--absolute-git-dir").removesuffix("\n"))


def reason_of_a_dead_process(session_id: str = "dead") -> str:
    """Return the lock of a maker that is no more: written by a process of its own."""
    code = f"from relaykit_worktree.facts import unfinished; print(unfinished({session_id!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


@asynccontextmanager
async def process_in(directory: Path) -> AsyncIterator[int]:
    """Run a process whose working directory this is, and give its id."""
    process = await anyio.open_process([sys.executable, "-c", "print(flush=True); input()"], cwd=directory)
    try:
        assert process.stdout is not None
        with anyio.fail_after(10):
            await process.stdout.receive()
        yield process.pid
    finally:
        with anyio.CancelScope(shield=True):
            process.kill()
            await process.aclose()


def everything(repository: Path) -> tuple[str, str, list[str]]:
    """Return worktrees, refs, and every path there is but for objects, so that two moments can be compared."""
    paths = sorted(
        str(path.relative_to(repository))
        for path in repository.rglob("*")
        if not str(path.relative_to(repository)).startswith((".git/objects/", ".git/info/exclude"))
        # An index.lock would show; empty directories of git's may stay or go.
        and str(path.relative_to(repository)) not in _MAY_STAY
    )
    return git(repository, "worktree", "list", "--porcelain"), git(repository, "for-each-ref"), paths
