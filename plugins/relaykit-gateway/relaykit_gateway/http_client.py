"""HttpClient: a relay's HTTP interface, without an event loop."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from relaykit_gateway.address import Address, ClientError

_SECONDS = 10.0
_PAGE = 500

NOT_FOUND = 404


class RequestRefused(ClientError):
    """The relay answered with an error.

    :param status: the HTTP status.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class HttpClient:
    """Calls ``/api``. Every method blocks, for 10 seconds at most between two signs of life.

    All raise `ClientError` if the relay cannot be reached, and `RequestRefused` if it says no.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    def sessions(self, *, state: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return all sessions, as ``GET /api/sessions`` shows them, page after page.

        :param state: only those in this state.
        """
        sessions: list[Mapping[str, Any]] = []
        query = {"state": state} if state else {}
        while True:
            page = json.loads(self.get(f"/api/sessions?{urlencode(query)}"))
            sessions += page["sessions"]
            if "next" not in page:
                return sessions
            query["after"] = page["next"]

    def session(self, session_id: str) -> Mapping[str, Any]:
        """Return one session, as ``GET /api/sessions/{id}`` shows it."""
        session: Mapping[str, Any] = json.loads(self.get(_path_of(session_id)))
        return session

    def ended(self, *, limit: int = 0) -> Sequence[Mapping[str, Any]]:
        """Return the sessions that ended last, as ``GET /api/sessions?ended=true`` shows them.

        :param limit: so many at most; 0 for all that are kept.
        """
        sessions: list[Mapping[str, Any]] = []
        query = {"ended": "true", "limit": str(min(limit or _PAGE, _PAGE))}
        while True:
            page = json.loads(self.get(f"/api/sessions?{urlencode(query)}"))
            sessions += page["sessions"]
            if "next" not in page or 0 < limit <= len(sessions):
                return sessions[: limit or None]
            query["after"] = page["next"]

    def transcript(self, session_id: str) -> Iterator[Mapping[str, Any]]:
        """Yield what was said in a session, as ``GET /api/sessions/{id}/transcript`` shows it, page after page."""
        after = 0
        while True:
            query = urlencode({"after": after, "limit": _PAGE})
            page = json.loads(self.get(f"{_path_of(session_id)}/transcript?{query}"))
            yield from page["entries"]
            if "next" not in page:
                return
            after = page["next"]

    def resume(self, session_id: str) -> Mapping[str, Any]:
        """Have the relay start a session that has ended anew, and return it; it goes on doing so by itself."""
        session: Mapping[str, Any] = json.loads(self._request("POST", f"{_path_of(session_id)}/resume"))
        return session

    def stop(self, session_id: str, *, reason: str = "") -> None:
        """Have the relay end a session; it goes on doing so by itself."""
        query = f"?{urlencode({'reason': reason})}" if reason else ""
        self._request("DELETE", _path_of(session_id) + query)

    def get(self, path: str) -> str:
        """Return what is at a path."""
        return self._request("GET", path)

    def _request(self, method: str, path: str) -> str:
        connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=_SECONDS)
        try:
            connection.request(method, path, headers=self._address.headers)
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"the relay at {self._address.url} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise RequestRefused(response.status, _problem(response.status, body))
        return body


def _path_of(session_id: str) -> str:
    return f"/api/sessions/{quote(session_id, safe='')}"


def _problem(status: int, body: str) -> str:
    """Return what an RFC 9457 problem says to people."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if isinstance(problem, Mapping):
        said = problem.get("detail") or problem.get("title")
        if isinstance(said, str):
            return said
    return f"the relay answered with HTTP status {status}"
