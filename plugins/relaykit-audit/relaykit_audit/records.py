"""Records: what is written of each thing that somebody does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from relaykit.errors import without_last_words
from relaykit.hooks.events import (
    AccessRefused,
    CallMade,
    ClientAttached,
    ClientDetached,
    QuestionAnswered,
    TurnStarted,
)
from relaykit.session import Event, Session, Transition

Record = Mapping[str, Any]

_SHOWN = 300
"""Characters of what an agent wants to do."""

_MODES = {
    "session/set_mode": ("modeId",),
    "session/set_model": ("modelId",),
    "session/set_config_option": ("configId", "value"),
}
"""What a client asks of an agent whose choice is worth writing down, by method; of the rest the method alone."""


def of_transition(transition: Transition) -> Record | None:
    """Return the record of a creation, a stop or a cleanup; None for what happens in between."""
    session, actor, at = transition.after, transition.actor, transition.at
    if transition.event is None:
        return {**_begun("session.created", actor, at), **_session(session), "owner": session.owner}
    why = {"cause": session.cause, "reason": session.reason and without_last_words(session.reason)}
    if transition.event is Event.TERMINATE:
        return {**_begun("session.stopped", actor, at), **_session(session), **why}
    if transition.event is Event.CLEAN:
        results = transition.report.results if transition.report is not None else ()
        cleaners = {
            result.cleaner: {"outcome": result.outcome, "detail": result.detail} for result in results
        }
        return {**_begun("session.cleaned", actor, at), **_session(session), **why, "cleaners": cleaners}
    return None


def of_attached(client: ClientAttached) -> Record:
    """Return the record of a client that begins to follow a session."""
    return {**_client("client.attached", client), "owner": client.owner}


def of_detached(client: ClientDetached) -> Record:
    """Return the record of a client that stops following a session."""
    return _client("client.detached", client)


def _client(what: str, client: ClientAttached | ClientDetached) -> Record:
    return {
        **_begun(what, client.by, client.at),
        **_session(client.session),
        "client": client.client_id,
        "protocol": client.protocol,
        "access": client.role,
    }


def of_refusal(refusal: AccessRefused) -> Record:
    """Return the record of somebody who was not let in."""
    return {
        **_begun("access.refused", refusal.by, refusal.at),
        "where": refusal.where,
        "address": refusal.address,
        "status": refusal.status,
        "reason": refusal.reason,
    }


def of_turn(turn: TurnStarted) -> Record:
    """Return the record of a prompt; not what it says."""
    return {
        **_begun("prompt", turn.by, turn.at),
        **_session(turn.session),
        "turn": turn.turn,
        "client": turn.client_id,
    }


def of_call(made: CallMade) -> Record:
    """Return the record of a change of mode, model or option, or of any other call."""
    body = _object(made.call.body)
    chosen = {
        key: body.get(key)
        for key in _MODES.get(made.call.method, ())
        if isinstance(body.get(key), str | bool)
    }
    return {
        **_begun("call", made.by, made.at),
        **_session(made.session),
        "method": made.call.method,
        **chosen,
        "client": made.client_id,
    }


def of_decision(answer: QuestionAnswered) -> Record:
    """Return the record of an answer: what the agent wanted to do, and what it was told."""
    request, decision = _object(answer.request.body), _object(answer.decision.body)
    tool = request.get("toolCall")
    tool = tool if isinstance(tool, dict) else {}
    outcome = decision.get("outcome")
    chosen = outcome.get("optionId") if isinstance(outcome, dict) else decision.get("action")
    options = request.get("options")
    kinds = [
        option.get("kind")
        for option in (options if isinstance(options, list) else ())
        if isinstance(option, dict) and option.get("optionId") == chosen
    ]
    return {
        **_begun("decision", answer.by, answer.at),
        **_session(answer.session),
        "question": answer.request.ref,
        "method": answer.request.method,
        "tool": {key: str(tool[key])[:_SHOWN] for key in ("toolCallId", "kind", "title") if key in tool},
        "outcome": answer.outcome,
        "chosen": chosen,
        "kind": kinds[0] if kinds else None,
        "reason": answer.reason,
        "waited": round(answer.seconds, 3),
    }


def _begun(what: str, by: str, at: datetime) -> Record:
    return {"at": at.isoformat(timespec="microseconds"), "what": what, "by": by}


def _session(session: Session) -> Record:
    return {
        "session": session.id,
        "role": session.agent_id,
        "agent": session.agent,
        "project": session.project,
    }


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(body or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
