"""AgentLauncher: starts agents of one kind. The contract alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from relaykit.agent.agent import Agent
from relaykit.conversation.frame import Frame
from relaykit.session.model import Json, Session

Record = Callable[[Json], Awaitable[None]]
"""Saves ``session.resources[plugin]``. Awaited before what it identifies is acquired."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """A configured agent.

    :param command: program and arguments; never a shell line, never from a client.
    :param env: environment variables on top of the launcher's short safe list. Values are secrets.
    :param login: the command with which a person logs this agent in, where it is known.
    :param mcp_servers: what the agent is to use besides its own, each as its protocol has it. May hold secrets.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    launcher: str = "acp"
    login: str | None = None
    mcp_servers: tuple[Json, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What an agent asks permission for, as far as rules look at it.

    :param kind: of the tool, as ACP has it; None if it is not said, or is none that ACP has.
    :param locations: the paths that are said to be touched.
    """

    kind: str | None
    locations: tuple[str, ...] = ()


class AgentLauncher(Protocol):
    """Starts agents. If a call fails or is cancelled, nothing of it is left running.

    The relay awaits each call in a task of its own, and one that leaves a task group or a cancel scope open has
    failed: tasks that outlive it are started in a group that the factory opens.
    """

    async def profile(self, spec: AgentSpec, /) -> Json:
        """Return what the agent says of itself before any session (ACP: its answer to ``initialize``).

        Cached by command, for as long as its program stays the same; concurrent calls start the agent once.

        :raises SpawnError: as `launch`.
        """
        ...

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        """Start the agent in `cwd` and bring it to where it takes a prompt.

        `record` is awaited with a marker before the process is started, with its pid, process group and start
        time as soon as they are known, and with what `can_resume` goes by.

        :param session: as it is now.
        :param resume: it is to go on where the session's last agent was. What it says of the past is left out.
        :raises SpawnError: in one of its kinds: each says what to do.
        :raises AgentOverLimit: it used more than settings allow while it started.
        """
        ...

    def can_resume(self, session: Session, /) -> bool:
        """Tell from ``session.resources`` whether an agent could go on where the session's last one was."""
        ...

    def decline(self, request: Frame, /, *, cancelled: bool) -> Frame:
        """Return the DECISION that says no to an agent's REQUEST, in the agent's own terms.

        :param cancelled: the turn was cancelled, or is over; else somebody, or a policy, refuses.
        """
        ...

    def allow(self, request: Frame, /) -> Frame | None:
        """Return the DECISION that says yes to an agent's request for permission, once if that is offered.

        None: it is no such request, or offers no yes.
        """
        ...

    def tool_use(self, request: Frame, /) -> ToolUse | None:
        """Return what an agent's REQUEST wants permission for; None if it is not understood, or wants none."""
        ...


LauncherFactory = Callable[[], AbstractAsyncContextManager[AgentLauncher]]
"""Opens a launcher for as long as a relay lives; leaving it stops every agent that is left."""
