"""A workspace and a launcher as the relay calls them: what they leave open is the failure of one session alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentLauncher, AgentSpec, Record, ToolUse
from relaykit.agent.workspace import Say, Workspace
from relaykit.conversation.frame import Frame
from relaykit.errors import Leaked, SpawnError, WorkspaceError
from relaykit.hooks.offers import NotAskedFor, demand, like
from relaykit.session.model import Closable, Json, Session
from relaykit.tasks import contained

Close = Callable[[Closable], Awaitable[None]]
"""Closes what nobody else will close. Raises nothing."""


_flaw_of_agent = like(Agent)


class ContainedLauncher:
    """An `AgentLauncher` that does what another does, and can harm nobody but the session that it is called for.

    :param name: of the launcher, in settings.
    :param close: for an agent that was started, and that nobody can be given.
    """

    def __init__(self, launcher: AgentLauncher, *, name: str, close: Close) -> None:
        self._launcher = launcher
        self._name = name
        self._close = close

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        """Do as the other does.

        :raises SpawnError: also where it returned something else, or left something open.
        """
        call = partial(self._launcher.launch, spec, session, cwd, record, resume=resume)
        try:
            agent = await contained(call, lost=self._close)
        except Leaked as error:
            raise self._leaked(error, spec) from error
        try:
            demand(agent, "an Agent", _flaw_of_agent)
        except NotAskedFor as error:
            if hasattr(agent, "aclose"):
                await self._close(agent)
            complaint = f"returned {error.offered!r}, {error.complaint}"
            raise SpawnError(f"the launcher {self._name!r} {complaint}", agent=spec.name) from None
        return agent

    async def profile(self, spec: AgentSpec, /) -> Json:
        """Do as the other does.

        :raises SpawnError: also where it left something open.
        """
        try:
            return await contained(partial(self._launcher.profile, spec))
        except Leaked as error:
            raise self._leaked(error, spec) from error

    def can_resume(self, session: Session, /) -> bool:
        """Do as the other does."""
        return self._launcher.can_resume(session)

    def decline(self, request: Frame, /, *, cancelled: bool) -> Frame:
        """Do as the other does."""
        return self._launcher.decline(request, cancelled=cancelled)

    def allow(self, request: Frame, /) -> Frame | None:
        """Do as the other does."""
        return self._launcher.allow(request)

    def tool_use(self, request: Frame, /) -> ToolUse | None:
        """Do as the other does."""
        return self._launcher.tool_use(request)

    def _leaked(self, error: Leaked, spec: AgentSpec) -> SpawnError:
        return SpawnError(f"the launcher {self._name!r}: {error}", agent=spec.name)


class ContainedWorkspace:
    """A `Workspace` that does what another does, and can harm nobody but the session that it is called for.

    :param name: of the workspace, in settings.
    """

    def __init__(self, workspace: Workspace, *, name: str) -> None:
        self._workspace = workspace
        self._name = name

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        """Do as the other does.

        :raises WorkspaceError: also where it returned something else, or left something open.
        """
        try:
            path: object = await contained(partial(self._workspace.prepare, session, record, say))
        except Leaked as error:
            raise WorkspaceError(f"the workspace {self._name!r}: {error}") from error
        if not isinstance(path, Path):
            raise WorkspaceError(
                f"the workspace {self._name!r} returned {path!r}, where a Path was asked for"
            )
        return path
