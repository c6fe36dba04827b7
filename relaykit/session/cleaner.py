"""Cleaners: what is done about a session's resources once it is TERMINATING."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from relaykit.session.model import Closable, Handle, Session


class Phase(StrEnum):
    """When a cleaner runs. Phases run in this order; settings order the cleaners within one."""

    AGENT = "AGENT"
    WORKSPACE = "WORKSPACE"
    AFTER = "AFTER"


class Outcome(StrEnum):
    """What became of what a cleaner looks after."""

    DONE = "DONE"
    KEPT = "KEPT"  # on purpose, because removing it would lose something
    SKIPPED = "SKIPPED"  # nothing of this cleaner's, or not safe to begin
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class CleanerResult:
    """What one cleaner did. `detail` is for people: why it was kept, how it failed."""

    cleaner: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What all cleaners did, in the order in which they ran.

    :param session: the session as it ended, CLEANED; None when it was already gone before the call.
    """

    session: Session | None = None
    results: Sequence[CleanerResult] = ()


class Cleaner(Protocol):
    """Releases one kind of resource.

    Idempotent, because a crash between a cleaner and the commit means that it runs again. It works from
    ``session.resources``; `handle` is None after a restart, and a help at best. It runs under a deadline;
    what it raises is reported as FAILED and stops no other cleaner. It must not call the Manager to
    change the session that it is cleaning (`ReentrantCall`).
    """

    @property
    def name(self) -> str:
        """The name in settings, reports and metrics."""
        ...

    @property
    def phase(self) -> Phase:
        """When it runs. If a cleaner of AGENT fails, those of WORKSPACE are skipped."""
        ...

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        """Release what is recorded, and say what became of it."""
        ...


class CloseAgent:
    """Close the agent that was attached, by its own ``aclose``."""

    name = "close_agent"
    phase = Phase.AGENT

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        """Close ``handle.agent`` where there is one."""
        del session
        return await _close(self.name, handle.agent if handle else None)


class CloseConnection:
    """Close the connection that the session was created with, by its own ``aclose``."""

    name = "close_connection"
    phase = Phase.AFTER

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        """Close ``handle.connection`` where there is one."""
        del session
        return await _close(self.name, handle.connection if handle else None)


async def _close(cleaner: str, closable: Closable | None) -> CleanerResult:
    if closable is None:
        return CleanerResult(cleaner, Outcome.SKIPPED, "there is none")
    await closable.aclose()
    return CleanerResult(cleaner, Outcome.DONE)
