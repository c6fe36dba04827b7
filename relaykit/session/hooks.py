"""What the Manager tells others. The contract alone: the pluggy side of it lives in `relaykit.hooks`."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from relaykit.session.cleaner import CleanerResult
from relaykit.session.model import Session
from relaykit.session.state_machine import Transition

inside_hook: ContextVar[bool] = ContextVar("relaykit_inside_hook", default=False)
"""True in a task that runs a session's hooks: a Manager call made there returns after the commit."""


class SessionHooks(Protocol):
    """Hears what happened to sessions, in version order, one thing at a time per session.

    Neither method may raise: implementations isolate their own parts, and bound them in time. They run
    outside the session's worker, so they may call the Manager for the same session.
    """

    @property
    def listening(self) -> bool:
        """False if nobody would hear: then nothing is called, and nothing is paid."""
        ...

    async def transitioned(self, transition: Transition, /) -> None:
        """Hear that a transition was committed."""
        ...

    async def cleanup_failed(self, session: Session, result: CleanerResult, /) -> None:
        """Hear that a cleaner raised or overran its deadline; the session becomes CLEANED all the same."""
        ...


class NoHooks:
    """Nobody listens."""

    listening = False

    async def transitioned(self, transition: Transition, /) -> None:
        """Ignore it."""

    async def cleanup_failed(self, session: Session, result: CleanerResult, /) -> None:
        """Ignore it."""


NO_HOOKS: SessionHooks = NoHooks()
