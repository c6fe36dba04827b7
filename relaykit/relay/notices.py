"""Notices: what the relay itself says in a transcript. Each is a NOTICE whose method is its word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from relaykit.conversation.frame import Frame, Kind
from relaykit.session.cleaner import CleanupReport

ACTIVE = "active"
"""The agent takes prompts. Body: ``{"worktreeDir"}``."""
ASLEEP = "asleep"
"""The agent was stopped; the next prompt or client starts it again. Body: ``{"reason"}``."""
AWAKE = "awake"
"""The agent runs again, and goes on where it was. Body: ``{}``."""
WAKE_FAILED = "wake_failed"
"""The agent could not be started again: the session still sleeps. Body: ``{"reason"}``."""
AGENT_CRASHED = "agent_crashed"
"""The agent ended by itself in the midst of a turn or a question. It sleeps, and is started again: at once if somebody
is there, or prompts wait. Body: ``{"reason"}``."""
DECIDED = "decided"
"""Who or what gave the DECISION that stands right before it. Body: ``{"requestId", "by", "outcome", "client"?,
"reason"?}``; see `Decider`."""
UNDELIVERED = "undelivered"
"""The agent could not be given a DECISION, which was no JSON: it was told that its question is cancelled. Body:
``{"requestId", "reason"}``."""
TERMINATING = "terminating"
"""The session is being ended. Body: ``{"cause", "reason"}``."""
ENDED = "ended"
"""The last entry, unless the session is revived. Body: ``{"cause", "reason", "cleanup"}``, the last a list of
``{"cleaner", "outcome", "detail"}``."""


def notice(word: str, **body: Any) -> Frame:
    """Return a NOTICE."""
    return Frame(Kind.NOTICE, json.dumps(body).encode(), method=word)


def ended(report: CleanupReport) -> Frame:
    """Return the NOTICE that a session is CLEANED."""
    session = report.session
    cleanup: list[Mapping[str, Any]] = [
        {"cleaner": result.cleaner, "outcome": result.outcome, "detail": result.detail}
        for result in report.results
    ]
    cause, reason = (session.cause, session.reason) if session is not None else (None, None)
    return notice(ENDED, cause=cause, reason=reason, cleanup=cleanup)
