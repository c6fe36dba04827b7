"""Workspace: where an agent works. The contract, and the two kinds that need no git."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import anyio
from anyio import to_thread

from relaykit.agent.launcher import Record
from relaykit.errors import WorkspaceError
from relaykit.session.model import Session

Say = Callable[[str], Awaitable[None]]
"""Puts words into the session's transcript, for those who wait for its workspace."""


class Workspace(Protocol):
    """Gives each session a directory to work in. Its removal is a `Cleaner`'s job."""

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        """Return an existing directory for the session, adopting the role's kept one where that is safe.

        `record` is awaited before anything is made. What takes long may `say` what it does, as what a command
        writes that makes the directory ready. If this fails or is cancelled, nothing of it is left. It is awaited in
        a task of its own, and has failed if it leaves a task group or a cancel scope open.

        :raises WorkspaceError: it says what to do.
        """
        ...


class InPlaceWorkspace:
    """The project's own directory, shared by all its sessions. Nothing is made, nothing is removed.

    :param projects: each project's directory, by name.
    """

    def __init__(self, projects: Mapping[str, Path]) -> None:
        self._projects = projects

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        """Return the project's directory."""
        del say  # nothing takes long
        path = self._projects.get(session.project)
        if path is None:
            raise WorkspaceError(f"there is no project {session.project!r} in the settings")
        if not await anyio.Path(path).is_dir():
            raise WorkspaceError(f"the directory {str(path)!r} of project {session.project!r} is missing")
        await record({"path": str(path)})
        return path


class DirectoryWorkspace:
    """A directory per owner, project and role, made empty, kept for the role's next session.

    :param root: where the directories are made; private to this user.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        """Make the role's directory, or find it again."""
        del say  # nothing takes long
        path = self._root / session.owner / session.project / session.agent_id
        await record({"path": str(path)})
        try:
            await to_thread.run_sync(lambda: path.mkdir(mode=0o700, parents=True, exist_ok=True))
        except OSError as error:
            raise WorkspaceError(f"cannot make the directory {str(path)!r}: {error.strerror}") from error
        return path
