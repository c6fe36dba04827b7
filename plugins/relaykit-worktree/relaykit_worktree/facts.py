"""What is written down of a worktree: in the session, and in git's own directory for the worktree."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from relaykit.errors import WorkspaceError
from relaykit.session import Json, Session, check_agent_id
from relaykit_worktree.processes import started
from relaykit_worktree.repository import DIRECTORY

LOCAL_OWNER = "local"
_CLAIM = "relaykit.json"
_UNFINISHED = re.compile(
    r"relaykit: being made for session (?P<session>\S+) by process (?P<process>\d+) started (?P<started>\w+)",
    re.ASCII,
)


def role_name(session: Session) -> str:
    """Return the name that the role's branch and directory share: ``<agent_id>``, or ``@<owner>/<agent_id>``.

    No agent id begins with ``@``, so that no owner's names ever meet those of a role; and a digest of the
    owner keeps two apart that look alike once they are safe to write.

    :raises InvalidAgentId: the role may not name a directory and a branch.
    """
    agent_id = check_agent_id(session.agent_id)
    if session.owner == LOCAL_OWNER:
        return agent_id
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", session.owner)[:24]
    digest = hashlib.sha256(session.owner.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"@{readable}-{digest}/{agent_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What ``session.resources["worktree"]`` holds. Recorded before anything is made.

    :param repository: git's own directory, shared by all worktrees.
    :param path: the worktree's root.
    :param branch: the full name, ``refs/heads/relaykit/…``.
    :param base: the commit at which the session began: the pinned base, or the tip of the role's branch.
    :param branch_existed: the branch was there before the session, with whatever it holds.
    :param adopted: so was the worktree.
    """

    repository: str
    path: str
    branch: str
    base: str
    branch_existed: bool
    adopted: bool

    def to_json(self) -> Json:
        """Return what is recorded."""
        return asdict(self)

    @classmethod
    def from_json(cls, recorded: Json) -> Facts:
        """Read what was recorded.

        :raises WorkspaceError: it is not what `to_json` wrote.
        """
        values: dict[str, Any] = {field.name: recorded.get(field.name) for field in fields(cls)}
        texts = (values["repository"], values["path"], values["branch"], values["base"])
        flags = (values["branch_existed"], values["adopted"])
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(flag, bool) for flag in flags
        ):
            raise WorkspaceError(f"what is recorded of the worktree cannot be read: {dict(recorded)!r}")
        facts = cls(**values)
        if not facts.branch.startswith("refs/heads/relaykit/") or DIRECTORY not in Path(facts.path).parts:
            raise WorkspaceError(f"what is recorded is not one of our worktrees: {dict(recorded)!r}")
        return facts

    def short_branch(self) -> str:
        """Return the branch's name as people write it."""
        return self.branch.removeprefix("refs/heads/")


@dataclass(frozen=True, slots=True)
class Claim:
    """Who holds a worktree, or held it last: a file in git's directory for the worktree, gone with it.

    Two projects may be checkouts or directories of one repository, and share its branches: a role of the
    one must not take, or clean away, what a session of the other works in.

    :param base: the commit at which the role's work began, whichever session of the role that was; empty if that is
        not known.
    """

    session: str
    project: str
    base: str = ""


@dataclass(frozen=True, slots=True)
class Maker:
    """Who locked a worktree until its checkout would be complete: a session, and its relay's process."""

    session: str
    process: int
    started: int | None


def unfinished(session: Session) -> str:
    """Return the reason with which a worktree is locked until its checkout is complete. Reads ``/proc``."""
    pid = os.getpid()
    return (
        f"relaykit: being made for session {session.id} by process {pid} started {started(pid) or 'unknown'}"
    )


def read_maker(locked: str | None) -> Maker | None:
    """Return who is making a worktree, from the reason of its lock; None if it is locked otherwise, or not."""
    match = _UNFINISHED.fullmatch(locked or "")
    if match is None:
        return None
    began = match["started"]
    return Maker(match["session"], int(match["process"]), int(began) if began.isdecimal() else None)


def write_claim(git_dir: Path, session: Session, *, base: str) -> None:
    """Say that `session` holds the worktree. Atomic; blocks."""
    temporary = git_dir / f"{_CLAIM}.new"
    temporary.write_text(json.dumps(asdict(Claim(session.id, session.project, base))), encoding="utf-8")
    temporary.replace(git_dir / _CLAIM)


def read_claim(git_dir: Path) -> Claim | None:
    """Return who holds the worktree; None if nobody of ours ever did. Blocks.

    :raises WorkspaceError: the claim cannot be read.
    """
    path = git_dir / _CLAIM
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Claim(str(content["session"]), str(content["project"]), str(content.get("base", "")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{str(path)!r}, which says whose worktree it is, cannot be read: {error}"
        ) from error
