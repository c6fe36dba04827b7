"""Parked worktrees: the refs that hold them, and what is written in their commits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from relaykit.errors import WorkspaceError
from relaykit_worktree.git import Git

PARKED = "refs/relaykit/parked/"
"""What the names of all such refs begin with; a session's id follows."""

_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)
_PLAIN = re.compile(r'(?!")[!-~](?:[ -~]*[!-~])?', re.ASCII)
_KEYS = ("session", "role", "owner", "project", "branch", "base", "path")
_FORMAT = "%(refname)%00%(objectname)%00%(parent)%00%(contents)%00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A worktree as it was when it was parked.

    The ref's commit has the whole working tree; its first parent is the HEAD; its second parent, if there is one,
    has the index, which was HEAD's otherwise.

    :param branch: the full name; it pointed to the HEAD.
    :param base: the commit at which the session had begun.
    :param path: the worktree's root.
    :param expires: when `relaykit worktrees gc` may drop it; None: never.
    :param modes: the permissions of files for which git would not make them such.
    :param ref: the full name.
    :param index: the commit that has the index; None if the index was as HEAD.
    """

    session: str
    role: str
    owner: str
    project: str
    branch: str
    base: str
    path: str
    at: datetime
    expires: datetime | None = None
    modes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    ref: str = ""
    commit: str = ""
    head: str = ""
    index: str | None = None

    def message(self) -> str:
        """Return what the commit says: a line for people, and trailers (git-interpret-trailers(1)) for programs.

        Values that are not plain ASCII text are written as JSON strings.
        """
        lines = [f"Relaykit-{key.capitalize()}: {_written(getattr(self, key))}" for key in _KEYS]
        lines.append(f"Relaykit-Parked-At: {self.at.isoformat()}")
        if self.expires is not None:
            lines.append(f"Relaykit-Expires: {self.expires.isoformat()}")
        lines += [f"Relaykit-Mode: {mode:o} {_written(name)}" for name, mode in self.modes.items()]
        return "\n".join(
            [
                f"relaykit: the worktree of session {self.session} ({self.role})",
                "",
                "The tree is the working tree as it was, the first parent its HEAD; the second parent, if there is",
                "one, has its index. `relaykit worktrees restore` brings it back.",
                "",
                *lines,
                "",
            ]
        )


def ref_of(session_id: str) -> str:
    """Return the name of the ref for a session's worktree.

    :raises WorkspaceError: the id may not stand in one.
    """
    if _SESSION.fullmatch(session_id) is None:
        raise WorkspaceError(f"the session's id {session_id!r} may not stand in a ref's name")
    return PARKED + session_id


async def list_parked(git: Git, repository: Path, *refs: str) -> Sequence[Parked]:
    """Return what is parked in a repository, in the order of the refs' names.

    :param refs: only these, each a full name.
    :raises WorkspaceError: git fails, or one of them is none of ours.
    """
    told = await git.run(repository, "for-each-ref", f"--format={_FORMAT}", *(refs or (PARKED,)))
    fields = told.split("\0")
    return [
        _read(*(part.lstrip("\n") for part in fields[at : at + 4])) for at in range(0, len(fields) - 4, 4)
    ]


def _read(ref: str, commit: str, parents: str, message: str) -> Parked:
    trailers: dict[str, str] = {}
    modes: dict[str, int] = {}
    for line in message.rstrip("\n").rpartition("\n\n")[2].split("\n"):
        key, _, value = line.partition(": ")
        name = key.removeprefix("Relaykit-").lower()
        try:
            if name == "mode":
                mode, _, path = value.partition(" ")
                modes[_meant(path)] = int(mode, 8)
            else:
                trailers[name] = _meant(value)
        except ValueError as error:
            raise WorkspaceError(f"{ref} is none of relaykit's: {line!r}") from error
    head, *more = parents.split() or [""]
    try:
        expires = trailers.get("expires")
        return Parked(
            **{key: trailers[key] for key in _KEYS},
            at=datetime.fromisoformat(trailers["parked-at"]),
            expires=datetime.fromisoformat(expires) if expires else None,
            modes=MappingProxyType(modes),
            ref=ref,
            commit=commit,
            head=head,
            index=more[0] if more else None,
        )
    except (KeyError, ValueError) as error:
        raise WorkspaceError(f"{ref} is none of relaykit's: its commit does not say {error}") from error


def _written(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _meant(value: str) -> str:
    return str(json.loads(value)) if value.startswith('"') else value
