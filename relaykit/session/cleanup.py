"""Cleanup: runs a session's cleaners, phase after phase, each in isolation and under a deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import anyio

from relaykit.clock import Clock
from relaykit.meter import AGENT_SHUTDOWN, CLEANUPS, Meter
from relaykit.session.cleaner import Cleaner, CleanerResult, CloseAgent, CloseConnection, Outcome, Phase
from relaykit.session.model import Closable, Handle, Session
from relaykit.tasks import contained

logger = logging.getLogger(__name__)

_OURS = {CloseAgent, CloseConnection}
"""Cleaners that leave nothing open, and are worth no task: a session's life without a plugin is that much shorter."""


async def close_at_last(closable: Closable, *, within: float) -> None:
    """Close what nobody else will close, whatever cancels the caller. What goes wrong is logged, and never raised.

    :param within: seconds that it may take.
    """
    with anyio.move_on_after(within, shield=True) as scope:
        try:
            await contained(closable.aclose)
        except Exception:
            logger.exception("%r could not be closed", closable)
    if scope.cancelled_caught:
        logger.error("%r took longer than %g s to close; it is left", closable, within)


class Cleanup:
    """All cleaners of a relay.

    :param cleaners: run in this order within their phase.
    :param timeout: seconds that each may take.
    """

    def __init__(self, cleaners: Sequence[Cleaner], *, timeout: float, clock: Clock, meter: Meter) -> None:
        self._cleaners = [cleaner for phase in Phase for cleaner in cleaners if cleaner.phase is phase]
        self.timeout = timeout
        self._clock = clock
        self._meter = meter
        for cleaner in cleaners:
            meter.expect(CLEANUPS, cleaner=cleaner.name)

    async def run(
        self,
        session: Session,
        handle: Handle | None,
        *,
        failed: Callable[[CleanerResult], None],
        phases: Sequence[Phase] = tuple(Phase),
    ) -> Sequence[CleanerResult]:
        """Run every cleaner of these phases once and return what each did.

        If one of phase AGENT fails, something may still work in the workspace: those of WORKSPACE are skipped.

        :param failed: called for each that raised or overran.
        """
        results: list[CleanerResult] = []
        agent_failed = False
        has_agent = handle is not None and handle.agent is not None
        started = self._clock.monotonic()
        for phase in phases:
            for cleaner in self._cleaners:
                if cleaner.phase is not phase:
                    continue
                if agent_failed and phase is Phase.WORKSPACE:
                    detail = "the agent could not be stopped, so its workspace stays"
                    result = CleanerResult(cleaner.name, Outcome.SKIPPED, detail)
                else:
                    result = await self._run_one(cleaner, session, handle)
                results.append(result)
                self._meter.count(CLEANUPS, cleaner=cleaner.name, outcome=result.outcome)
                if result.outcome is Outcome.FAILED:
                    agent_failed = agent_failed or phase is Phase.AGENT
                    failed(result)
            if phase is Phase.AGENT and has_agent and not agent_failed:
                self._meter.observe(AGENT_SHUTDOWN, self._clock.monotonic() - started, agent=session.agent)
        return tuple(results)

    async def _run_one(self, cleaner: Cleaner, session: Session, handle: Handle | None) -> CleanerResult:
        try:
            with anyio.move_on_after(self.timeout):
                if type(cleaner) in _OURS:
                    return await cleaner.clean(session, handle)
                result: object = await contained(partial(cleaner.clean, session, handle))
                if not isinstance(result, CleanerResult):
                    raise TypeError(f"it returned {result!r}, where a CleanerResult was asked for")
                return result
        except Exception as error:
            logger.exception("cleaner %s failed for session %s", cleaner.name, session.id)
            return CleanerResult(cleaner.name, Outcome.FAILED, f"{type(error).__name__}: {error}")
        logger.error("cleaner %s overran for session %s", cleaner.name, session.id)
        return CleanerResult(cleaner.name, Outcome.FAILED, f"took longer than {self.timeout:g} s")
