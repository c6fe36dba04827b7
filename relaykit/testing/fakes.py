"""Fakes of what a Manager is given: time, ids, connections, hooks and cleaners that remember."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

import anyio.lowlevel

from relaykit.hooks import hookimpl
from relaykit.hooks.events import CleanupFailed
from relaykit.session import CleanerResult, Handle, Outcome, Phase, Session, Transition

WhenTransitioned = Callable[[Transition], Awaitable[None]]
WhenCleaned = Callable[[Session, Handle | None], Awaitable[None]]


class FakeClock:
    """A `Clock` that stands still until it is told to advance.

    :param start: the time of day at first; aware.
    """

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the time of day that was set."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds by which the clock was advanced so far."""
        return self._monotonic

    def advance(self, seconds: float) -> datetime:
        """Let `seconds` pass on both clocks, and return the new time of day.

        :raises ValueError: `seconds` is negative; `monotonic` never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot advance by {seconds} s")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
        return self._now


class FakeIds:
    """An `IdGenerator` with ids that a test can foretell, and that sort in the order in which they were made.

    :param ids: returned first, as they are, so that a test can repeat one. Then come ``session-000001``,
        ``session-000002`` and so on.
    """

    def __init__(self, ids: Sequence[str] = ()) -> None:
        self._given = iter(ids)
        self._numbers = count(1)

    def new_id(self) -> str:
        """Return the next given id, or the next number."""
        given = next(self._given, None)
        return f"session-{next(self._numbers):06}" if given is None else given


class FakeConnection:
    """A `Closable` that remembers being closed: for a session's connection as for its agent.

    :param error: raised by every `aclose`, which closes nothing then.
    """

    def __init__(self, *, error: Exception | None = None) -> None:
        self.closed = False
        """Whether an `aclose` ran to its end: one that was cancelled, or failed, has not closed."""
        self._error = error

    async def aclose(self) -> None:
        """Close; again and again, if one likes. Has a checkpoint, as closing something real has."""
        await anyio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        self.closed = True


class RecordingHooks:
    """`SessionHooks` that remember what they heard, each thing as soon as it was told. As a plugin of a relay, too.

    :param when_transitioned: awaited after a transition was remembered: to call the Manager, to wait, to raise.
    """

    listening = True

    def __init__(self, *, when_transitioned: WhenTransitioned | None = None) -> None:
        self.transitions: list[Transition] = []
        self.failures: list[tuple[Session, CleanerResult]] = []
        self.when_transitioned = when_transitioned

    def heard_of(self, session_id: str) -> list[Transition]:
        """Return the transitions of one session, in the order in which they were told."""
        return [transition for transition in self.transitions if transition.after.id == session_id]

    async def transitioned(self, transition: Transition, /) -> None:
        """Remember it."""
        self.transitions.append(transition)
        if self.when_transitioned is not None:
            await self.when_transitioned(transition)

    async def cleanup_failed(self, session: Session, result: CleanerResult, /) -> None:
        """Remember it."""
        self.failures.append((session, result))

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        """Remember it."""
        await self.transitioned(transition)

    @hookimpl
    async def relaykit_on_cleanup_failed(self, failure: CleanupFailed) -> None:
        """Remember it."""
        await self.cleanup_failed(failure.session, failure.result)


class RecordingCleaner:
    """A `Cleaner` that remembers what it was given.

    :param log: the cleaner's name and the session's id are appended to it at each run; give several cleaners
        one list to see the order in which they ran.
    :param when_cleaned: awaited in each run, before it ends with `outcome`: to wait, or to raise.
    """

    def __init__(
        self,
        name: str = "recording",
        phase: Phase = Phase.AGENT,
        *,
        outcome: Outcome = Outcome.DONE,
        log: list[tuple[str, str]] | None = None,
        when_cleaned: WhenCleaned | None = None,
    ) -> None:
        self.name = name
        self.phase = phase
        self.outcome = outcome
        self.log = [] if log is None else log
        self.when_cleaned = when_cleaned
        self.cleaned: list[tuple[Session, Handle | None]] = []

    def runs_for(self, session_id: str) -> int:
        """Return how often it was run for this session."""
        return sum(session.id == session_id for session, _ in self.cleaned)

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        """Remember it, with a checkpoint, as cleaning something real has."""
        self.cleaned.append((session, handle))
        self.log.append((self.name, session.id))
        await anyio.lowlevel.checkpoint()
        if self.when_cleaned is not None:
            await self.when_cleaned(session, handle)
        return CleanerResult(self.name, self.outcome)
