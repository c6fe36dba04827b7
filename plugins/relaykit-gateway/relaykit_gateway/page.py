"""The page that the link of ``relaykit serve`` leads to."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from relaykit.relay import Relay
from relaykit.relay.rest import Presence
from relaykit.session import Session, SessionFilter
from relaykit_gateway.credentials import caller_of
from relaykit_gateway.wire import timestamp

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem;color-scheme:light dark}"
    "td,th{padding:.2rem 1.5rem .2rem 0;text-align:left}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>relaykit</title><style>{style}</style>
<h1>relaykit {version}</h1>
<p>{summary}</p>
<table><thead><tr><th>role<th>agent<th>project<th>state<th>last active<th>clients</thead>
<tbody>{rows}</tbody></table>
</html>
"""
_LIMIT = 100


class StatusPage:
    """Shows which sessions there are. It brings no script, and loads nothing."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def show(self, request: Request) -> Response:
        """Show the page."""
        relay = self._relay.restricted_to(caller_of(request.scope).access)
        sessions = await relay.list(SessionFilter(), limit=_LIMIT)
        page = _PAGE.format(
            style=_STYLE,
            version=escape(version("relaykit")),
            summary="The relay is running." if sessions else "The relay is running, without a session.",
            rows="".join(map(self._row, sessions)),
        )
        return HTMLResponse(page, headers={"content-security-policy": _POLICY})

    def _row(self, session: Session) -> str:
        cells = (
            session.agent_id,
            session.agent,
            session.project,
            _state(session, self._relay),
            timestamp(session.activity.last_active),
            str(self._relay.clients(session.id)),
        )
        return "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells)


def _state(session: Session, relay: Relay) -> str:
    asleep = relay.presence(session.id) is Presence.ASLEEP
    return f"{session.state}, asleep" if asleep else session.state
