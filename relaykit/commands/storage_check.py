"""What ``relaykit doctor`` says of the storage, or of the relay that has it open."""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from relaykit.clock import SystemClock
from relaykit.errors import RelaykitError
from relaykit.hooks.plugin_set import PluginSet
from relaykit.hooks.registration import Finding, Verdict
from relaykit.relay.choice import chosen_storage
from relaykit.relay.running import Running
from relaykit.session import Activity, Session, SessionFilter, Store
from relaykit.settings import Settings

if TYPE_CHECKING:
    from relaykit.hooks.plugin_set import Contexts

_SECONDS = 10.0
_PAGE = 500
_NOBODY = "relaykit-doctor"
"""The id of no session."""


async def look_at_storage(
    settings: Settings, plugins: PluginSet, contexts: Contexts
) -> tuple[Sequence[Finding], Mapping[str, Session] | None]:
    """Open the storage that is chosen, and say whether it can be read and written.

    :return: also the sessions in it, by id; None if that cannot be told.
    """
    try:
        name, open_storage = chosen_storage(settings, plugins, contexts)
        if not settings.relay.storage and not settings.state_dir.exists():
            return [_told(Verdict.OK, f"{name}: nothing is stored yet")], {}
        with anyio.fail_after(_SECONDS):
            async with open_storage() as (store, _):
                # It writes nothing, because there is no such session; but only where something could be written.
                await store.touch({_NOBODY: Activity(SystemClock().now(), 0)})
                sessions = await _sessions(store)
                durable = store.durable
    except TimeoutError:
        return [_told(Verdict.TROUBLE, f"the storage did not answer within {_SECONDS:g} s")], None
    except RelaykitError as error:
        return [_told(Verdict.TROUBLE, str(error))], None
    if not durable:
        verdict = Verdict.OK if settings.relay.storage else Verdict.WARNING
        fix = "" if settings.relay.storage else "pip install relaykit-sqlite"
        return [_told(verdict, f"{name} forgets sessions and transcripts when the relay ends", fix)], sessions
    return [_told(Verdict.OK, f"{name} can be read and written; sessions: {len(sessions)}")], sessions


async def _sessions(store: Store) -> Mapping[str, Session]:
    found: dict[str, Session] = {}
    after = ""
    while page := await store.list(SessionFilter(), after=after, limit=_PAGE):
        found |= {session.id: session for session in page}
        after = page[-1].id
    return found


async def look_at_relay(running: Running) -> Finding:
    """Say whether the relay that runs answers."""
    who = f"the relay with pid {running.pid}"
    if not running.url:
        return _told(Verdict.WARNING, f"{who} runs, without a gateway that could be asked")
    try:
        status = await to_thread.run_sync(_status_of, running.url)
    except (OSError, http.client.HTTPException) as error:
        return _told(
            Verdict.TROUBLE,
            f"{who} does not answer at {running.url}: {error}",
            "look into its log; end it, and start it again with `relaykit serve`",
        )
    if status != http.client.OK:
        return _told(
            Verdict.WARNING, f"{who} takes no new sessions: it shuts down, or has trouble of its own"
        )
    return _told(Verdict.OK, f"{who} answers at {running.url}, and has the storage open")


def _status_of(url: str) -> int:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def _told(verdict: Verdict, what: str, fix: str = "") -> Finding:
    return Finding(verdict=verdict, what=what, fix=fix)
