"""What the log says of sessions: events with names and facts, for people and for programs.

Each record has `event`, a name such as ``session.created``, and `facts`, a mapping: whoever formats it as more than
text (``relaykit serve --log-format json``) finds them there. Never what was said, a token, or a variable's value.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from relaykit.ids import trace_id
from relaykit.session.model import Session, SessionState

logger = logging.getLogger(__name__)

_NAMES = {
    SessionState.CREATED: "session.created",
    SessionState.SPAWNING: "session.spawning",
    SessionState.ACTIVE: "session.ready",
    SessionState.TERMINATING: "session.terminating",
    SessionState.CLEANED: "session.terminated",
}


def log_state(session: Session, *, before: SessionState | None, at: datetime) -> None:
    """Log that a session has come to a state."""
    if not logger.isEnabledFor(logging.INFO):
        return
    facts, after = _who(session), ""
    if session.state is SessionState.CREATED:
        facts |= {"agent": session.agent, "project": session.project, "owner": session.owner}
    elif session.state in {SessionState.TERMINATING, SessionState.CLEANED}:
        facts |= {"cause": session.cause, "reason": session.reason or ""}
    if session.state is SessionState.CLEANED:
        seconds = (at - session.created_at).total_seconds()
        facts |= {"duration": round(seconds, 3), "messageCount": session.activity.message_count}
        after = f", after {seconds:.3f} s and {session.activity.message_count} messages"
    why = f" ({session.reason})" if session.reason else ""
    logger.info(
        "session %s (%s): %s -> %s%s%s",
        *(session.id, session.agent_id, before or "nothing", session.state, why, after),
        extra=_extra(_NAMES[session.state], facts),
    )


def logs_messages() -> bool:
    """Tell whether `log_message_sent` would log anything."""
    return logger.isEnabledFor(logging.INFO)


def log_message_sent(session: Session, *, turn: str, client_id: str) -> None:
    """Log that a prompt went to the agent; not what it says."""
    facts = _who(session) | {"turn": turn, "client": client_id}
    logger.info(
        "session %s (%s): a prompt went to the agent, turn %s",
        *(session.id, session.agent_id, turn),
        extra=_extra("session.message_sent", facts),
    )


def log_agent_ended(session: Session, *, reason: str, crashed: bool) -> None:
    """Log that the agent of a session that is not ending has ended by itself.

    :param crashed: it was in the midst of a turn or a question.
    """
    logger.warning(
        "session %s (%s): its agent ended by itself: %s",
        *(session.id, session.agent_id, reason),
        extra=_extra("session.agent_ended", _who(session) | {"reason": reason, "crashed": crashed}),
    )


def _who(session: Session) -> dict[str, Any]:
    return {"sessionId": session.id, "agentId": session.agent_id, "traceId": trace_id(session.id)}


def _extra(event: str, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"event": event, "facts": facts}
