"""``/api``, and the probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relaykit.errors import (
    DuplicateRole,
    DuplicateSession,
    JournalError,
    ManagerClosed,
    NotAllowed,
    Refused,
    RelaykitError,
    SessionLimit,
    SessionNotFound,
    TransitionError,
    UnknownAgent,
    UnknownProject,
)
from relaykit.relay import Relay
from relaykit.relay.restricted import RestrictedRelay
from relaykit.session import Session, SessionFilter, SessionState
from relaykit_gateway.credentials import (
    SUBPROTOCOL,
    TICKET_PROTOCOL,
    TICKET_SECONDS,
    Tickets,
    TooManyTickets,
    caller_of,
)
from relaykit_gateway.views import view_entry, view_session
from relaykit_gateway.wire import raw_json

_MAX_LIMIT = 500
_DIGITS = 16
_PAGE_BYTES = 4 * 1024 * 1024
_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LAST_MILLISECOND = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND

_STATUS: Mapping[type[RelaykitError], int] = MappingProxyType(
    {
        SessionNotFound: 404,
        DuplicateRole: 409,
        DuplicateSession: 409,
        SessionLimit: 409,
        UnknownAgent: 409,
        UnknownProject: 409,
        Refused: 403,
        NotAllowed: 403,
        ManagerClosed: 503,
    }
)
"""What becomes of what the relay raises."""

_REFUSALS = tuple(_STATUS)


class Api:
    """Sessions and plugins over HTTP."""

    def __init__(self, relay: Relay, tickets: Tickets) -> None:
        self._relay = relay
        self._tickets = tickets

    def _relay_for(self, request: Request) -> RestrictedRelay:
        return self._relay.restricted_to(caller_of(request.scope).access)

    async def healthy(self, _request: Request) -> Response:
        """Say that the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Say whether new sessions are taken."""
        if self._relay.closing:
            raise HTTPException(503, "the relay is shutting down")
        return JSONResponse({"status": "ready"})

    async def list_sessions(self, request: Request) -> Response:
        """List sessions, in pages of `limit`; `next` is what to give as `after` for the next page."""
        query, relay = request.query_params, self._relay_for(request)
        if _flag(query, "ended"):
            return await self._list_ended(query, relay)
        limit = _limit(query)
        where = SessionFilter(state=_state(query), agent_id=query.get("agentId") or None)
        found = await relay.list(where, after=query.get("after", ""), limit=limit + 1)
        page = found[:limit]
        sessions = [view_session(session, relay) for session in page]
        more = {"next": page[-1].id} if len(found) > limit else {}
        return JSONResponse({"sessions": sessions, **more})

    async def _list_ended(self, query: QueryParams, relay: RestrictedRelay) -> Response:
        """List sessions that have ended, the latest first.

        What ends between two pages moves none of the others: each page asks for what ended before the first one.
        """
        limit = _limit(query)
        before, skip = _place(query)
        where = SessionFilter(agent_id=query.get("agentId") or None)
        found = await relay.ended(where, before=before, skip=skip, limit=limit + 1)
        page = found[:limit]
        sessions = [view_session(session, relay) for session in page]
        more = {}
        if len(found) > limit:
            newest = page[0].ended_at or page[0].activity.last_active
            behind = before or newest + _MILLISECOND
            more = {"next": f"{(behind - _EPOCH) // _MILLISECOND}_{skip + limit}"}
        return JSONResponse({"sessions": sessions, **more})

    async def show_session(self, request: Request) -> Response:
        """Show one session, also one that has ended."""
        relay = self._relay_for(request)
        return JSONResponse(view_session(await _find(request, relay), relay))

    async def resume_session(self, request: Request) -> Response:
        """Start a session that has ended anew."""
        relay = self._relay_for(request)
        try:
            session = await relay.revive(request.path_params["session_id"])
        except _REFUSALS as error:
            status = _status(error)
            runs = isinstance(error, DuplicateSession)
            said = "the session has not ended: open it, which wakes it if it sleeps" if runs else str(error)
            raise HTTPException(status, said) from error
        return JSONResponse(view_session(session, relay), status_code=202)

    async def show_transcript(self, request: Request) -> Response:
        """Show what was said in a session, in pages; `next` is what to give as `after` for the next page."""
        query = request.query_params
        after, limit = _after(query), _limit(query)
        relay = self._relay_for(request)
        session = await _find(request, relay)
        try:
            page = await relay.transcript(session.id, after=after, limit=limit, max_bytes=_PAGE_BYTES)
            behind = page[-1].seq if page else after
            rest = await relay.transcript(session.id, after=behind, limit=1)
        except JournalError as error:
            raise HTTPException(503, f"the transcript cannot be read: {error}") from error
        more = {"next": behind} if page and rest else {}
        told = {"sessionId": session.id, "entries": [view_entry(entry) for entry in page], **more}
        return Response(raw_json(told), media_type="application/json")

    async def stop_session(self, request: Request) -> Response:
        """Begin to end a session."""
        session_id = request.path_params["session_id"]
        try:
            reason = request.query_params.get("reason") or "stopped over HTTP"
            await self._relay_for(request).stop(session_id, reason)
        except (SessionNotFound, NotAllowed) as error:
            raise HTTPException(_status(error), str(error)) from error
        except TransitionError as error:  # its end is being written down
            raise HTTPException(404, str(error)) from error
        return JSONResponse({"id": session_id, "state": SessionState.TERMINATING}, status_code=202)

    async def issue_ticket(self, request: Request) -> Response:
        """Give a ticket, with which a browser opens one WebSocket."""
        try:
            ticket = self._tickets.issue(caller_of(request.scope))
        except TooManyTickets as error:
            raise HTTPException(429, str(error)) from error
        protocols = [SUBPROTOCOL, f"{TICKET_PROTOCOL}{ticket}"]
        told = {"ticket": ticket, "protocols": protocols, "expiresIn": TICKET_SECONDS}
        return JSONResponse(told, status_code=201)

    async def list_plugins(self, request: Request) -> Response:
        """List every installed plugin, and what became of it."""
        if not caller_of(request.scope).access.is_everything:
            raise HTTPException(403, "the plugins are shown to who may do everything alone")
        return JSONResponse({"plugins": [asdict(record) for record in self._relay.plugins.records]})


async def _find(request: Request, relay: RestrictedRelay) -> Session:
    try:
        return await relay.find(request.path_params["session_id"])
    except SessionNotFound as error:
        raise HTTPException(404, str(error)) from error


def _status(error: RelaykitError) -> int:
    return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def _state(query: QueryParams) -> SessionState | None:
    name = query.get("state")
    if not name:
        return None
    try:
        return SessionState(name.upper())
    except ValueError:
        known = ", ".join(SessionState)
        raise HTTPException(400, f"there is no state {name[:64]!r}; known: {known}") from None


def _limit(query: QueryParams) -> int:
    limit = _number(query.get("limit", "100"))
    if limit is None or not 1 <= limit <= _MAX_LIMIT:
        raise HTTPException(400, f"limit must be 1 to {_MAX_LIMIT}")
    return limit


def _after(query: QueryParams) -> int:
    after = _number(query.get("after", "0"))
    if after is None:
        raise HTTPException(400, "after must be the seq of an entry, or 0")
    return after


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else None


def _flag(query: QueryParams, name: str) -> bool:
    text = query.get(name, "false")
    if text not in {"true", "false"}:
        raise HTTPException(400, f"{name} must be true or false")
    return text == "true"


def _place(query: QueryParams) -> tuple[datetime | None, int]:
    """Return where in the list of what has ended a page begins, as the page before has said it."""
    text = query.get("after", "")
    if not text:
        return None, 0
    moment, _, count = text.partition("_")
    milliseconds, skip = _number(moment), _number(count)
    if milliseconds is None or milliseconds > _LAST_MILLISECOND or skip is None:
        raise HTTPException(400, "after must be what the page before has said as its `next`")
    return _EPOCH + milliseconds * _MILLISECOND, skip
