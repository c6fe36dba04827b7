"""What clients see of a session."""

from __future__ import annotations

from typing import Any

from relaykit.relay import Relay
from relaykit.session import Session
from relaykit_gateway.wire import timestamp


def view_session(session: Session, relay: Relay) -> dict[str, Any]:
    """Return a session as JSON shows it, with what the relay that runs it knows of it now."""
    return {
        "id": session.id,
        "agentId": session.agent_id,
        "agent": session.agent,
        "owner": session.owner,
        "project": session.project,
        "state": session.state,
        "presence": relay.presence(session.id),
        "worktreeDir": session.worktree_dir,
        "createdAt": timestamp(session.created_at),
        "lastActive": timestamp(session.activity.last_active),
        "messageCount": session.activity.message_count,
        "clients": relay.clients(session.id),
        "needsLogin": relay.needs_login(session.id),
    }
