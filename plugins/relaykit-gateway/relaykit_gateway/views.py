"""What clients see of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from relaykit.conversation import Entry
from relaykit.relay.restricted import NO_WORK, Work
from relaykit.session import Session
from relaykit_gateway.wire import timestamp

if TYPE_CHECKING:
    from relaykit.relay.restricted import RestrictedRelay


def view_session(session: Session, relay: RestrictedRelay) -> dict[str, Any]:
    """Return a session as JSON shows it, with what the relay that runs it knows of it now."""
    return view_stored(
        session,
        presence=relay.presence(session.id),
        clients=relay.clients(session.id),
        observers=relay.observers(session.id),
        needs_login=relay.needs_login(session.id),
        work=relay.work(session.id),
    )


def view_stored(
    session: Session,
    *,
    presence: str,
    clients: int = 0,
    observers: int = 0,
    needs_login: bool = False,
    work: Work = NO_WORK,
) -> dict[str, Any]:
    """Return a session as JSON shows it, with what is said of it besides."""
    return {
        "id": session.id,
        "agentId": session.agent_id,
        "agent": session.agent,
        "owner": session.owner,
        "project": session.project,
        "state": session.state,
        "presence": presence,
        **_end_of(session),
        "worktreeDir": session.worktree_dir,
        "createdAt": timestamp(session.created_at),
        "lastActive": timestamp(session.activity.last_active),
        "messageCount": session.activity.message_count,
        "clients": clients,
        "controllers": clients - observers,
        "observers": observers,
        "needsLogin": needs_login,
        "turn": work.turn,
        "queued": work.queued,
        "questions": work.questions,
    }


def _end_of(session: Session) -> dict[str, Any]:
    if session.cause is None:
        return {}
    ended_at = timestamp(session.ended_at) if session.ended_at is not None else None
    return {"cause": session.cause, "reason": session.reason, "endedAt": ended_at}


def view_entry(entry: Entry) -> dict[str, Any]:
    """Return an entry of a transcript as JSON shows it; what was said stands in it as it was said."""
    frame = entry.frame
    return {
        "seq": entry.seq,
        "at": timestamp(entry.at),
        "kind": frame.kind,
        "method": frame.method,
        "ref": frame.ref,
        "failed": frame.failed,
        "body": msgspec.Raw(frame.body.decode("utf-8", "replace").encode() or b"null"),
    }
