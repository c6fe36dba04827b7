"""Rest: whether a session's agent is there, and who wants it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from relaykit.errors import SessionError
from relaykit.session.cleaner import CleanerResult, Outcome
from relaykit.tasks import LazyEvent


class Presence(StrEnum):
    """Where a session's agent is."""

    SPAWNING = "SPAWNING"  # it is started for the first time
    AWAKE = "AWAKE"
    DROWSY = "DROWSY"  # it is being stopped
    ASLEEP = "ASLEEP"
    WAKING = "WAKING"  # it is being started again
    GONE = "GONE"  # for good, as far as this relay is concerned


class AgentNotStopped(SessionError):
    """Something of a session's agent may still run."""


def check_stopped(results: Sequence[CleanerResult]) -> None:
    """Check that the cleaners of phase AGENT have done their work.

    :raises AgentNotStopped: one has not.
    """
    if failed := [result.detail for result in results if result.outcome is Outcome.FAILED]:
        raise AgentNotStopped(f"its agent could not be stopped: {'; '.join(failed)}")


class Rest:
    """The sleep of one session's agent. For one event loop; every change is synchronous.

    :param asleep: the agent of an earlier relay is not there any more.
    """

    def __init__(self, *, asleep: bool) -> None:
        self.presence = Presence.ASLEEP if asleep else Presence.SPAWNING
        self.reason = ""
        """Why it is put to sleep, or how it ended by itself."""
        self.crashed = False
        """It was in the midst of something when it ended by itself."""
        self.crashes = 0
        """How often in a row it was, with no turn that came to its end between."""
        self._failure: Exception | None = None  # of the last waking
        self._failures = 0
        self._wanted = False
        self._stopping = False  # what the agent has started may still run
        self._changed = LazyEvent()

    def move(self, presence: Presence) -> None:
        """Note where the agent is now, and wake who waits for that."""
        self.presence = presence
        if presence is Presence.AWAKE:
            self._wanted, self._failure, self._failures = False, None, 0
        self._notify()

    def failed(self, error: Exception) -> None:
        """Note that the agent could not be started again: it sleeps on."""
        self._wanted, self._failure = False, error
        self._failures += 1
        self.move(Presence.ASLEEP)

    def end(self, error: Exception) -> None:
        """Note that there will be no agent any more.

        :param error: for who still waits for one.
        """
        self._failure = error
        self.move(Presence.GONE)

    def want(self) -> None:
        """Have the agent started, if it sleeps or is about to."""
        if self.presence in {Presence.ASLEEP, Presence.DROWSY} and not self._wanted:
            self._wanted, self._failure = True, None
            self._notify()

    @property
    def failure(self) -> Exception | None:
        """Why there is no agent: the last waking failed, and nobody has wanted it since; or there will be none."""
        return self._failure

    @property
    def failures(self) -> int:
        """How often in a row the agent could not be started again."""
        return self._failures

    async def stop_agent(
        self,
        reason: str,
        detach: Callable[[], Awaitable[Sequence[CleanerResult]]],
        stopped: Callable[[], None],
    ) -> None:
        """Stop the agent, if it is awake, and wait until the session has taken note of that.

        :param detach: stops it; see `Manager.detach_agent`.
        :param stopped: called once it has been.
        :raises AgentNotStopped: something of it may still run.
        """
        if self.presence is not Presence.AWAKE:
            return
        self.reason, self.crashed = reason, False
        self._stopping = True
        self.move(Presence.DROWSY)
        try:
            check_stopped(await detach())
        finally:
            self._stopping = False
            self._notify()
        stopped()
        await self._until_it_is_not(Presence.DROWSY)

    def lose_agent(self, reason: str, *, in_its_midst: bool) -> None:
        """Note that the agent, which was awake, has ended by itself: what is left of it is being stopped.

        :param reason: how it ended.
        :param in_its_midst: a turn ran, or a question was open.
        """
        self.reason, self.crashed = reason, in_its_midst
        self.crashes += in_its_midst
        self.move(Presence.DROWSY)

    async def until_stopped(self) -> None:
        """Wait until nothing of the agent is left: it may have ended before what it has started."""
        while self._stopping:
            await self._changed.wait()

    async def _until_it_is_not(self, presence: Presence) -> None:
        while self.presence is presence:
            await self._changed.wait()

    async def until_wanted(self) -> None:
        """Wait until somebody wants the agent; then it is on its way."""
        while not self._wanted:
            await self._changed.wait()
        self._wanted = False
        self.move(Presence.WAKING)

    async def until_awake(self) -> None:
        """Want the agent, and wait until it is there.

        :raises Exception: what the waking failed with.
        """
        self.want()
        while self.presence is not Presence.AWAKE:
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, LazyEvent()
        changed.set()
