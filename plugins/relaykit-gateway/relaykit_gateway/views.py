"""What clients see of a session."""

from __future__ import annotations

from typing import Any

from relaykit.session import Session
from relaykit_gateway.wire import timestamp


def view_session(session: Session, *, clients: int) -> dict[str, Any]:
    """Return a session as JSON shows it.

    :param clients: how many follow it now.
    """
    return {
        "id": session.id,
        "agentId": session.agent_id,
        "agent": session.agent,
        "owner": session.owner,
        "project": session.project,
        "state": session.state,
        "worktreeDir": session.worktree_dir,
        "createdAt": timestamp(session.created_at),
        "lastActive": timestamp(session.activity.last_active),
        "messageCount": session.activity.message_count,
        "clients": clients,
    }
