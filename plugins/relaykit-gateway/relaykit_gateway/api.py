"""``/api``, and the probes."""

from __future__ import annotations

from dataclasses import asdict

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relaykit.errors import SessionNotFound, TransitionError
from relaykit.relay import Relay
from relaykit.session import SessionFilter, SessionState
from relaykit_gateway.views import view_session

_OWNER = "local"
_MAX_LIMIT = 500


class Api:
    """Sessions and plugins over HTTP."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

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
        query = request.query_params
        limit = _limit(query)
        where = SessionFilter(state=_state(query), agent_id=query.get("agentId") or None, owner=_OWNER)
        found = await self._relay.list(where, after=query.get("after", ""), limit=limit + 1)
        page = found[:limit]
        sessions = [view_session(session, self._relay) for session in page]
        more = {"next": page[-1].id} if len(found) > limit else {}
        return JSONResponse({"sessions": sessions, **more})

    async def show_session(self, request: Request) -> Response:
        """Show one session."""
        session_id = request.path_params["session_id"]
        session = await self._relay.get(session_id)
        if session is None:
            raise HTTPException(404, str(SessionNotFound(session_id)))
        return JSONResponse(view_session(session, self._relay))

    async def stop_session(self, request: Request) -> Response:
        """Begin to end a session."""
        session_id = request.path_params["session_id"]
        try:
            await self._relay.stop(
                session_id, request.query_params.get("reason") or "stopped over HTTP", actor="api"
            )
        except (SessionNotFound, TransitionError) as error:  # the latter: its end is being written down
            raise HTTPException(404, str(error)) from error
        return JSONResponse({"id": session_id, "state": SessionState.TERMINATING}, status_code=202)

    async def list_plugins(self, _request: Request) -> Response:
        """List every installed plugin, and what became of it."""
        return JSONResponse({"plugins": [asdict(record) for record in self._relay.plugins.records]})


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
    text = query.get("limit", "100")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_LIMIT):
        raise HTTPException(400, f"limit must be 1 to {_MAX_LIMIT}")
    return int(text)
