"""Recovery: at its start a relay takes over what an earlier one of its name has left in the store."""

from __future__ import annotations

import logging

import anyio

from relaykit.errors import RelaykitError
from relaykit.relay.live_sessions import LiveSessions
from relaykit.session.manager import Manager
from relaykit.session.model import Session, SessionFilter, SessionState

logger = logging.getLogger(__name__)

_PAGE = 100
_AT_ONCE = 8


async def recover(manager: Manager, sessions: LiveSessions, *, node: str) -> None:
    """Take over every session of this node: nobody else runs them.

    One whose agent can go on sleeps from now on, and is woken by whoever comes; any other is ended, with its
    cleaners, in the background. What the last relay was in the midst of is closed in the transcript. A session that
    cannot be taken over is reported, and left as it is until the next start.
    """
    slots = anyio.CapacityLimiter(_AT_ONCE)
    after = ""
    while page := await manager.list(SessionFilter(node=node), after=after, limit=_PAGE):
        async with anyio.create_task_group() as tasks:
            for session in page:
                tasks.start_soon(_take_over, session, manager, sessions, slots)
        after = page[-1].id


async def _take_over(
    session: Session, manager: Manager, sessions: LiveSessions, slots: anyio.CapacityLimiter
) -> None:
    async with slots:
        try:
            if session.state is SessionState.CLEANED:
                await manager.complete_cleanup(session.id)  # only its removal is missing
                return
            doomed = "" if sessions.can_sleep(session) else _why_it_ends(session)
            await sessions.take_over(session, doomed=doomed)
        except RelaykitError:
            logger.exception("session %s (%s) cannot be recovered", session.id, session.agent_id)
        else:
            logger.info(
                "session %s (%s) of an earlier relay %s", session.id, session.agent_id, doomed or "sleeps"
            )


def _why_it_ends(session: Session) -> str:
    if session.state is SessionState.ACTIVE:
        return "the relay was restarted, and the agent cannot go on where it was"
    return f"the relay was restarted while the session was {session.state}"
