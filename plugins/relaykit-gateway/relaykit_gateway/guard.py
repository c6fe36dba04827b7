"""Guard: who may come in. Every request passes here, before any route is looked at."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from starlette._utils import get_route_path  # the router's own: guard and router see one path
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relaykit_gateway.credentials import (
    ANYBODY,
    NOBODY,
    SUBPROTOCOL,
    Caller,
    Credentials,
    called_by,
    forget_secrets,
    ticket_in,
)
from relaykit_gateway.problems import Problem
from relaykit_gateway.settings import GatewaySettings, is_loopback
from relaykit_gateway.token_file import TokenFileError

PROBES = frozenset({"/healthz", "/readyz"})
"""Open to everybody, whatever they call us: a probe knows an address at most."""

_FOR_URLS = frozenset({"/ws", "/acp"})
"""Where a narrow token may stand in the URL, for clients that cannot send headers."""

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_COOKIE_SECONDS = 30 * 24 * 3600
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)

_NOT_LET_IN = frozenset({401, 403})

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Lets through who calls us by a name of ours, from a page of ours, and knows the token.

    The Host is checked because a foreign name that was made to point here (DNS rebinding) would make a
    foreign page one of ours; the Origin, because a browser sends cookies along for foreign pages. Being on
    the same machine earns no trust: web pages are there too.

    Who comes in is known from then on by its `Caller`; how it was known, by a token in the address or a ticket, is
    taken out of the request, so that nothing behind can tell it to anybody.

    :param public: paths that need no token.
    :param tell_refused: told of everybody who is not let in; the path, the address, and what is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: GatewaySettings,
        credentials: Credentials,
        public: Collection[str],
        tell_refused: Callable[[str, str, Problem], Awaitable[None]],
    ) -> None:
        self._app = app
        self._tell_refused = tell_refused
        self._credentials = credentials
        self._public = frozenset(public)
        self._host = settings.host.lower()
        urls = [urlsplit(url.lower()) for url in (settings.public_url, *settings.origins) if url]
        self._hosts = frozenset(name for url in urls for name in _names(url.netloc, url.scheme))
        self._origins = frozenset(
            f"{url.scheme}://{name}" for url in urls for name in _names(url.netloc, url.scheme)
        )
        self._secure = settings.public_url.lower().startswith("https:")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer who may not come in; pass on the others, with headers that keep browsers careful."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        path = get_route_path(scope) or "/"
        try:
            judged = self._judge(HTTPConnection(scope), path)
        except TokenFileError:
            judged = Problem(503, "the relay cannot read its tokens: its log says why")
        if _is_own(path):  # elsewhere a token in the query may be one of a plugin's
            forget_secrets(scope)
        if not isinstance(judged, Response):
            careful = _careful(send) if scope["type"] == "http" else send
            await self._app(called_by(scope, judged), receive, careful)
            return
        if isinstance(judged, Problem) and judged.status_code in _NOT_LET_IN:
            address = (scope.get("client") or ("",))[0]
            await self._tell_refused(path[:200], address, judged)
        if scope["type"] == "http":
            await judged(scope, receive, _careful(send))
        else:
            await receive()  # websocket.connect
            if "websocket.http.response" in scope.get("extensions", {}):
                await judged(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})

    def _judge(self, request: HTTPConnection, path: str) -> Response | Caller:
        """Return who comes in; or the answer to who may not, or brings the token in a link.

        :raises TokenFileError: it cannot be told.
        """
        if path in PROBES and request.scope["type"] == "http":
            return NOBODY
        if (refusal := self._check_names(request)) is not None:
            return refusal
        if not self._credentials.wanted:
            return ANYBODY
        if self._is_public(path):
            return NOBODY
        if path == "/" and "token" in request.query_params and request.scope["type"] == "http":
            return self._welcome(request)
        judged = self._check_credentials(request, path)
        if isinstance(judged, Caller) and not judged.access.is_everything and not _is_own(path):
            judged = Problem(403, "what plugins show is for who may do everything alone", by=judged.name)
        return judged

    def _check_names(self, request: HTTPConnection) -> Response | None:
        """Return the answer to who calls us by a foreign name, or from a foreign page."""
        headers = request.headers
        hosts, origins = self._own_names(request.scope)
        if not _all_in(headers, "host", hosts) or "host" not in headers:
            return Problem(
                403,
                f"this relay is not called {headers.get('host', '')[:100]!r}: set public_url in [plugins.gateway]",
            )
        if not _all_in(headers, "origin", origins):
            return Problem(
                403,
                f"pages of {headers['origin'][:100]!r} may not connect: add it to origins in [plugins.gateway]",
            )
        return None

    def _is_public(self, path: str) -> bool:
        return any(path == public or path.startswith(f"{public}/") for public in self._public)

    def _check_credentials(self, request: HTTPConnection, path: str) -> Response | Caller:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and (caller := self._credentials.of_token(bearer.strip())):
            return caller
        if request.scope["type"] == "websocket":
            if (ticket := ticket_in(request.scope)) is not None:
                return self._check_ticket(request.scope, ticket)
            if "token" in request.query_params and path in _FOR_URLS:
                return self._check_token_in_url(request.query_params["token"])
        caller = self._credentials.of_token(request.cookies.get(_cookie(request.scope), ""))
        if caller is None:
            return _unknown(
                "the token is missing or wrong, or was revoked, or has expired: send it as "
                "`Authorization: Bearer …`, or open the link that `relaykit serve` prints"
            )
        # A browser sends the cookie whoever asks; that its page is ours is shown by the Origin alone.
        harmless = request.scope["type"] == "http" and request.scope["method"] in _SAFE_METHODS
        if not harmless and "origin" not in request.headers:
            return Problem(403, "a request with a cookie needs an Origin", by=caller.name)
        return caller

    def _check_ticket(self, scope: Scope, ticket: str) -> Response | Caller:
        if SUBPROTOCOL not in scope["subprotocols"]:  # it is not used up by that
            return Problem(400, f"offer the subprotocol `{SUBPROTOCOL}` too, which is the one to be chosen")
        caller = self._credentials.of_ticket(ticket)
        if caller is None:
            return _unknown("the ticket is none, was used, or is too old: ask for another at `/api/tickets`")
        return caller

    def _check_token_in_url(self, token: str) -> Response | Caller:
        caller = self._credentials.of_token(token)
        if caller is None:
            return _unknown("the token in the URL is wrong, or was revoked, or has expired")
        if not caller.access.is_narrow:
            return Problem(
                403,
                "this token may do too much to stand in a URL, which others write down: send it as "
                "`Authorization: Bearer …`, or use one of an observer, of some projects or of some sessions",
                by=caller.name,
            )
        return caller

    def _welcome(self, request: HTTPConnection) -> Response:
        """Take the token out of the address bar, into a cookie that no script can read."""
        if self._credentials.of_token(request.query_params["token"]) is None:
            return Problem(401, "the token in this link is wrong: open the link that `relaykit serve` prints")
        home = request.scope.get("root_path", "") + "/"
        response = RedirectResponse(home, status_code=303)
        response.set_cookie(
            _cookie(request.scope),
            request.query_params["token"],
            max_age=_COOKIE_SECONDS,
            path=home,
            secure=self._secure or request.scope.get("scheme") == "https",
            httponly=True,
            samesite="lax",
        )
        return response

    def _own_names(self, scope: Scope) -> tuple[Collection[str], Collection[str]]:
        """Return the Hosts and the Origins that are ours: as configured, and as the client reached us."""
        host, port = scope.get("server") or ("", None)
        if port is None:  # a socket file: whoever is in front of it has a name, and that is configured
            return self._hosts, self._origins
        host = host.lower().removeprefix("::ffff:")
        names = {_bracketed(host), _bracketed(self._host)}
        if is_loopback(host):
            names.update(_LOOPBACK_NAMES)
        scheme = "https" if scope.get("scheme") in {"https", "wss"} else "http"
        hosts = {full for name in names for full in _names(f"{name}:{port}", scheme)}
        return self._hosts | hosts, self._origins | {f"{scheme}://{full}" for full in hosts}


def _is_own(path: str) -> bool:
    """Tell whether we answer here ourselves, and know what who may see."""
    return path == "/" or path in _FOR_URLS or path.startswith("/api/")


def _unknown(detail: str) -> Response:
    return Problem(401, detail, headers={"www-authenticate": "Bearer"})


def _all_in(headers: Headers, name: str, allowed: Collection[str]) -> bool:
    return all(value.lower() in allowed for value in headers.getlist(name))


def _names(netloc: str, scheme: str) -> Collection[str]:
    """Return a host and port as they may be written: the scheme's own port may be left out."""
    match = _HOST.fullmatch(netloc)
    if match is None:
        return ()
    default = "443" if scheme == "https" else "80"
    host, port = match[1], match[2] or default
    return (host, f"{host}:{port}") if port == default else (f"{host}:{port}",)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _cookie(scope: Scope) -> str:
    """Return the cookie's name. Cookies are not told apart by port, and there may be several relays."""
    port = (scope.get("server") or ("", None))[1]
    return f"relaykit_{port}" if port else "relaykit"


def _careful(send: Send) -> Send:
    async def send_carefully(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_carefully
