"""Tracing: what happens in sessions, as spans.

A session is a trace, whose id is the session's (`relaykit.ids.trace_id`): so it is found from a log line, and goes on
after a restart. Its root span is its life, and is sent when it has ended; until then its children name it by an id that
follows from the session's too. A turn whose prompt brings a `traceparent` belongs to that trace instead, and links to
the session. Times are those of the transcript, not of when we hear of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace import set_span_in_context as in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relaykit.conversation import Entry, Frame, Kind
from relaykit.errors import without_last_words
from relaykit.hooks.events import EntriesRecorded, QuestionAnswered
from relaykit.ids import trace_id
from relaykit.session import Cause, Session, SessionState, Transition
from relaykit_otel.exporting import GivenIds, make_provider

if TYPE_CHECKING:
    from relaykit.relay import Relay

logger = logging.getLogger(__name__)

_LAST_CALL = 5.0
"""Seconds in which what is left must have been sent when the relay ends."""

_TROUBLE = frozenset({Cause.SPAWN_FAILED, Cause.AGENT_EXITED, Cause.INTERNAL, Cause.LIMIT})


@dataclass(slots=True)
class _Turn:
    """A turn that runs.

    :param heard: something has come from the agent.
    """

    span: Span
    began: datetime
    heard: bool = False


class Tracing:
    """Makes the spans of one relay's sessions.

    :raises PluginError: the exporters cannot be had.
    """

    def __init__(self, environ: Mapping[str, str], *, node: str) -> None:
        self._ids = GivenIds()
        self._provider = make_provider(environ, ids=self._ids, node=node)
        self._tracer = self._provider.get_tracer("relaykit")
        self._spawning: dict[str, datetime] = {}
        self._turns: dict[str, dict[str, _Turn]] = {}  # of each session, by ref

    @asynccontextmanager
    async def open(self, _relay: Relay) -> AsyncIterator[None]:
        """Send what is left once the relay has ended; what cannot be sent in time is given up."""
        try:
            yield
        finally:
            with anyio.move_on_after(_LAST_CALL, shield=True) as scope:
                await to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)
            if scope.cancelled_caught:
                logger.warning("the last spans could not be sent within %g s", _LAST_CALL)

    # ------------------------------------------------------------ lives and spawns

    def follow(self, transition: Transition) -> None:
        """Take in one transition."""
        session, at = transition.after, transition.at
        if session.state is SessionState.SPAWNING:
            self._spawning[session.id] = at
            return
        began = self._spawning.pop(session.id, None)
        if began is not None:
            self._spawned(session, began, at)
        if session.state is SessionState.CLEANED:
            for turn in self._turns.pop(session.id, {}).values():
                turn.span.end(_nanoseconds(at))
            self._lived(session, at)

    def _spawned(self, session: Session, began: datetime, at: datetime) -> None:
        span = self._tracer.start_span(
            "spawn", self._within(session), attributes=_who(session), start_time=_nanoseconds(began)
        )
        if session.state is not SessionState.ACTIVE:
            span.set_status(Status(StatusCode.ERROR, _reason(session)))
        span.end(_nanoseconds(at))

    def _lived(self, session: Session, at: datetime) -> None:
        self._ids.give(trace_id=int(trace_id(session.id), 16), span_id=_root_id(session))
        span = self._tracer.start_span(
            f"session {session.agent}",
            Context(),
            attributes={
                **_who(session),
                "relaykit.session.cause": str(session.cause or ""),
                "relaykit.session.reason": _reason(session),
                "relaykit.session.messages": session.activity.message_count,
            },
            start_time=_nanoseconds(session.created_at),
        )
        if session.cause in _TROUBLE:
            span.set_status(Status(StatusCode.ERROR, _reason(session)))
        span.end(_nanoseconds(at))

    # ------------------------------------------------------------ turns and questions

    def hear(self, batch: EntriesRecorded) -> None:
        """Take in what was said."""
        update, prompt, end = Kind.UPDATE, Kind.PROMPT, Kind.TURN_END
        for entry in batch.entries:
            kind = entry.frame.kind
            if kind is update:
                self._heard(batch.session.id, entry)
            elif kind is prompt:
                self._turn_began(batch.session, entry)
            elif kind is end:
                self._turn_ended(batch.session, entry)

    def _turn_began(self, session: Session, entry: Entry) -> None:
        parent, links = self._within(session), []
        if (client := _client_context(entry.frame)) is not None:
            links = [Link(self._root(session))]
            parent = client
        span = self._tracer.start_span(
            "turn",
            parent,
            kind=SpanKind.SERVER,
            attributes={**_who(session), "relaykit.turn.id": entry.frame.ref},
            links=links,
            start_time=_nanoseconds(entry.at),
        )
        self._turns.setdefault(session.id, {})[entry.frame.ref] = _Turn(span, entry.at)

    def _heard(self, session_id: str, entry: Entry) -> None:
        for turn in self._turns.get(session_id, {}).values():
            if not turn.heard:
                turn.heard = True
                turn.span.add_event("first update", timestamp=_nanoseconds(entry.at))

    def _turn_ended(self, session: Session, entry: Entry) -> None:
        turn = self._turns.get(session.id, {}).pop(entry.frame.ref, None)
        if turn is None:
            return  # it began under an earlier relay
        ended = _object(entry.frame)
        if entry.frame.failed:
            turn.span.set_status(StatusCode.ERROR)  # what the agent says of it may hold the prompt, or a key
            if isinstance(code := ended.get("code"), int):
                turn.span.set_attribute("relaykit.turn.error_code", code)
        elif isinstance(stop_reason := ended.get("stopReason"), str):
            turn.span.set_attribute("relaykit.turn.stop_reason", stop_reason)
        turn.span.end(_nanoseconds(entry.at))

    def answered(self, answer: QuestionAnswered) -> None:
        """Take in a question that is over: it is a part of the turn in which it was asked."""
        session = answer.session
        running = next(iter(self._turns.get(session.id, {}).values()), None)
        span = self._tracer.start_span(
            "question",
            self._within(session) if running is None else in_context(running.span, Context()),
            attributes={
                **_who(session),
                "relaykit.question.method": answer.request.method,
                "relaykit.question.outcome": answer.outcome,
            },
            start_time=_nanoseconds(answer.at - timedelta(seconds=answer.seconds)),
        )
        span.end(_nanoseconds(answer.at))

    # ------------------------------------------------------------ the session's trace

    def _within(self, session: Session) -> Context:
        return in_context(NonRecordingSpan(self._root(session)), Context())

    def _root(self, session: Session) -> SpanContext:
        """Return the root span as its children know it: sampled if it will be."""
        number = int(trace_id(session.id), 16)
        chosen = self._provider.sampler.should_sample(None, number, f"session {session.agent}")
        sampled = chosen.decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(number, _root_id(session), is_remote=False, trace_flags=flags)


def _who(session: Session) -> Mapping[str, str]:
    return {
        "relaykit.session.id": session.id,
        "relaykit.session.role": session.agent_id,
        "relaykit.session.agent": session.agent,
        "relaykit.session.project": session.project,
    }


def _reason(session: Session) -> str:
    return without_last_words(session.reason or "")


def _root_id(session: Session) -> int:
    """Return the id of the span that is the session's life; never 0, which would be none."""
    return (
        int.from_bytes(hashlib.sha256(f"span of {session.id}".encode(errors="surrogatepass")).digest()[:8])
        | 1
    )


def _client_context(prompt: Frame) -> Context | None:
    """Return the context that the client's prompt came with in its ``_meta``, if it is a whole one."""
    if b'"traceparent"' not in prompt.body:
        return None
    meta = _object(prompt).get("_meta")
    if not isinstance(meta, dict):
        return None
    carrier = {name: meta[name] for name in ("traceparent", "tracestate") if isinstance(meta.get(name), str)}
    return TraceContextTextMapPropagator().extract(carrier, Context()) or None


def _object(frame: Frame) -> Mapping[str, object]:
    try:
        said = json.loads(frame.body or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000
