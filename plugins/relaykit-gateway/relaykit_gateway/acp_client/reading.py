"""The relay's messages, as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from relaykit_gateway.acp_client.events import (
    AcpError,
    AgentCrashed,
    Event,
    Gap,
    HistoryPage,
    Json,
    Notification,
    Past,
    Question,
    QuestionClosed,
    SessionAsleep,
    SessionAwake,
    SessionEnded,
    SessionOpened,
    TurnEnded,
    TurnStarted,
    Update,
    WakeFailed,
)


def event_of(method: str, params: Json) -> Event | None:
    """Return what a notification says, or None for what another one says as well."""
    read = _NOTIFICATIONS.get(method)
    if read is not None:
        return read(params)
    return Notification(session_id=_session_of(params), seq=_seq_of(params), method=method, params=params)


def question_of(question_id: str, method: str, params: Json) -> Question:
    """Return what a request of the agent asks."""
    return Question(
        session_id=_session_of(params), seq=_seq_of(params), id=question_id, method=method, params=params
    )


def said_of(message: Json) -> Event | None:
    """Return what a notification, or a request of the agent, says."""
    params = _object(message.get("params"))
    if "id" in message:
        return question_of(message["id"], message["method"], params)
    return event_of(message["method"], params)


def page_of(result: Json) -> HistoryPage:
    """Return a page of history."""
    session_id = _session_of(result)
    gap = result.get("gap")
    return HistoryPage(
        session_id=session_id,
        entries=[
            Past(
                seq=entry["seq"],
                events=[event for event in map(said_of, entry["messages"]) if event is not None],
            )
            for entry in result["entries"]
        ],
        next=result.get("next"),
        epoch=str(result.get("epoch", "")),
        gap=None if gap is None else Gap(session_id=session_id, first=gap["from"], last=gap["to"]),
    )


def opened_of(session_id: str, result: Json) -> SessionOpened:
    """Return what the answer to ``session/new``, ``load`` or ``resume`` says."""
    meta = relaykit_meta(result)
    return SessionOpened(
        session_id=session_id,
        result=result,
        role=str(meta.get("role", "")),
        agent=str(meta.get("agent", "")),
        project=str(meta.get("project", "")),
        cwd=str(meta.get("cwd", "")),
        epoch=str(meta.get("epoch", "")),
        seq=_seq_of(result),
        turn_running=meta.get("turnRunning"),
    )


def turn_end_of(session_id: str, turn: str, outcome: Json | AcpError) -> TurnEnded:
    """Return how a turn ended.

    :param outcome: the answer to ``session/prompt``.
    """
    error = outcome if isinstance(outcome, AcpError) else None
    result: Json = {} if isinstance(outcome, AcpError) else outcome
    return TurnEnded(
        session_id=session_id,
        seq=_seq_of(result),
        turn=turn,
        stop_reason=str(result.get("stopReason", "")),
        error=error,
    )


def error_of(error: Json) -> AcpError:
    """Return what a JSON-RPC error says."""
    code = error.get("code")
    message = str(error.get("message") or "it failed, and was not told why")
    return AcpError(code if isinstance(code, int) else 0, message, error.get("data"))


def relaykit_meta(params: Json) -> Json:
    """Return ``_meta.relaykit``; empty if there is none."""
    meta = _object(params.get("_meta"))
    return _object(meta.get("relaykit"))


def _turn_ended(params: Json) -> Event:
    error = params.get("error")
    outcome = error_of(error) if isinstance(error, Mapping) else _object(params.get("result"))
    ended = turn_end_of(_session_of(params), str(params.get("turn")), outcome)
    return replace(ended, seq=_seq_of(params))


def _ended(params: Json) -> Event:
    cleanup = params.get("cleanup")
    return SessionEnded(
        session_id=_session_of(params),
        cause=str(params.get("cause", "")),
        reason=str(params.get("reason", "")),
        cleanup=cleanup if isinstance(cleanup, list) else [],
    )


_NOTIFICATIONS: Mapping[str, Callable[[Json], Event | None]] = {
    "session/update": lambda params: Update(
        session_id=_session_of(params), seq=_seq_of(params), update=_object(params.get("update"))
    ),
    "_relaykit/turn_started": lambda params: TurnStarted(
        session_id=_session_of(params), seq=_seq_of(params), turn=str(params.get("turn"))
    ),
    "_relaykit/turn_ended": _turn_ended,
    "_relaykit/gap": lambda params: Gap(
        session_id=_session_of(params), first=int(params["from"]), last=int(params["to"])
    ),
    "_relaykit/question_closed": lambda params: QuestionClosed(
        session_id=_session_of(params),
        id=str(params.get("requestId")),
        by=str(params.get("by") or ""),
        client=str(params.get("client") or ""),
    ),
    "_relaykit/agent_crashed": lambda params: AgentCrashed(
        session_id=_session_of(params), seq=_seq_of(params), reason=str(params.get("reason", ""))
    ),
    "_relaykit/session_asleep": lambda params: SessionAsleep(
        session_id=_session_of(params), seq=_seq_of(params), reason=str(params.get("reason", ""))
    ),
    "_relaykit/session_awake": lambda params: SessionAwake(
        session_id=_session_of(params), seq=_seq_of(params)
    ),
    "_relaykit/wake_failed": lambda params: WakeFailed(
        session_id=_session_of(params), seq=_seq_of(params), reason=str(params.get("reason", ""))
    ),
    "_relaykit/session_ended": _ended,
    "_relaykit/caught_up": lambda _params: None,  # the answer to what has opened the session says more
    "_relaykit/epoch_changed": lambda _params: None,  # as above
    "$/cancel_request": lambda _params: None,  # `_relaykit/question_closed` comes too, and says more
}


def _session_of(params: Json) -> str:
    return str(params.get("sessionId", ""))


def _seq_of(params: Json) -> int:
    seq = relaykit_meta(params).get("seq")
    return seq if isinstance(seq, int) else 0


def _object(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}
