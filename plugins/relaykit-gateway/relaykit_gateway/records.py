"""Records: which sessions there are and were, and what was said, whether a relay runs or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from relaykit.relay.running import read_running
from relaykit_gateway.address import ClientError, NoRelayRunning, find_relay
from relaykit_gateway.http_client import NOT_FOUND, HttpClient, RequestRefused

if TYPE_CHECKING:
    from relaykit.conversation import Entry, Journal
    from relaykit.hooks.plugin_set import PluginSet
    from relaykit.hooks.registration import StorageFactory
    from relaykit.session import Session, Store
    from relaykit.settings import Settings

Json = Mapping[str, Any]

T = TypeVar("T")

_PAGE = 500


class Records(Protocol):
    """What can be looked at. All methods block, and may raise `ClientError`; everything is as ``/api`` shows it."""

    def sessions(self, *, state: str | None = None) -> Sequence[Json]:
        """Return the sessions that have not ended."""
        ...

    def ended(self, *, limit: int = 0) -> Sequence[Json]:
        """Return the sessions that ended last, as many as `limit` (0: all that are kept)."""
        ...

    def session(self, session_id: str) -> Json:
        """Return one session, also one that has ended.

        :raises RequestRefused: nothing of it is kept.
        """
        ...

    def transcript(self, session_id: str) -> Iterable[Json]:
        """Return what was said."""
        ...


@contextmanager
def open_records(settings: Settings, load_plugins: Callable[[], PluginSet]) -> Iterator[Records]:
    """Give the records of the relay that runs here; or, while none does, those of its storage.

    :param load_plugins: called only if they are needed.
    :raises NoRelayRunning: none does, and the storage is one that forgets.
    :raises RelaykitError: the storage cannot be opened.
    """
    try:
        address = find_relay(settings)
    except NoRelayRunning:
        if read_running(settings.state_dir) is not None or not settings.state_dir.exists():
            raise
        opening = _durable_storage(settings, load_plugins())
        if opening is None:
            raise
        yield StoredRecords(opening)
    else:
        yield HttpClient(address)


def full_id(records: Records, given: str) -> str:
    """Return the id of the session that is meant: by its whole id, or by a beginning that no other id has.

    :raises ClientError: there is none, or there are several, which are listed.
    """
    if not given:
        raise ClientError("which session? An id is empty")
    try:
        found: str = records.session(given)["id"]
    except RequestRefused as error:
        if error.status != NOT_FOUND:
            raise
    else:
        return found
    matches = [each for each in (*records.sessions(), *records.ended()) if each["id"].startswith(given)]
    if not matches:
        raise RequestRefused(NOT_FOUND, f"no session {given!r}: it never existed, or nothing of it is kept")
    if len(matches) > 1:
        listed = "".join(f"\n  {each['id']}  {each['agentId']}, {each['state']}" for each in matches)
        raise ClientError(f"{given!r} begins the ids of {len(matches)} sessions:{listed}")
    return str(matches[0]["id"])


def _durable_storage(settings: Settings, plugins: PluginSet) -> StorageFactory | None:
    """Return what opens the storage of the settings; None for ``memory``, in which there is nothing."""
    from relaykit.relay.choice import chosen_storage, plugin_contexts

    name, opening = chosen_storage(settings, plugins, plugin_contexts(settings, plugins, agents={}))
    return None if name == "memory" else opening


class StoredRecords:
    """Reads a storage that no relay has open. Each method opens it, reads, and closes it: a relay may start any time.

    :param opening: opens the storage.
    """

    def __init__(self, opening: StorageFactory) -> None:
        self._opening = opening

    def sessions(self, *, state: str | None = None) -> Sequence[Json]:
        """Return the sessions that have not ended: those that can will go on when a relay runs."""
        from relaykit.session import SessionFilter, SessionState

        try:
            where = SessionFilter(state=SessionState(state.upper()) if state else None)
        except ValueError:
            raise ClientError(f"there is no state {state!r}; known: {', '.join(SessionState)}") from None

        async def read(store: Store, _journal: Journal) -> Sequence[Session]:
            found: list[Session] = []
            while page := await store.list(where, after=found[-1].id if found else "", limit=_PAGE):
                found += page
            return found

        return [_view(session) for session in self._read(read)]

    def ended(self, *, limit: int = 0) -> Sequence[Json]:
        """Return the sessions that ended last."""
        from datetime import timedelta

        from relaykit.clock import SystemClock
        from relaykit.session import SessionFilter

        before = SystemClock().now() + timedelta(days=1)

        async def read(_store: Store, journal: Journal) -> Sequence[Session]:
            found: list[Session] = []
            while not limit or len(found) < limit:
                wanted = min(_PAGE, limit - len(found)) if limit else _PAGE
                page = await journal.ended(SessionFilter(), before=before, skip=len(found), limit=wanted)
                found += page
                if len(page) < wanted:
                    break
            return found

        return [_view(session) for session in self._read(read)]

    def session(self, session_id: str) -> Json:
        """Return one session."""

        async def read(store: Store, journal: Journal) -> Session | None:
            return await store.get(session_id) or await journal.find(session_id)

        found = self._read(read)
        if found is None:
            raise RequestRefused(
                NOT_FOUND, f"no session {session_id!r}: it never existed, or nothing of it is kept"
            )
        return _view(found)

    def transcript(self, session_id: str) -> Sequence[Json]:
        """Return what was said; all at once, so that the storage is free while it is looked at."""
        import json

        from relaykit_gateway.views import view_entry
        from relaykit_gateway.wire import raw_json

        async def read(_store: Store, journal: Journal) -> Sequence[Entry]:
            found: list[Entry] = []
            while page := await journal.read(session_id, after=found[-1].seq if found else 0, limit=_PAGE):
                found += page
            return found

        return [json.loads(raw_json(view_entry(entry))) for entry in self._read(read)]

    def _read(self, read: Callable[[Store, Journal], Awaitable[T]]) -> T:
        import anyio

        async def run() -> T:
            async with self._opening() as (store, journal):
                return await read(store, journal)

        return anyio.run(run)


def _view(session: Session) -> Json:
    from relaykit.session import SessionState
    from relaykit_gateway.views import view_stored

    sleeps = session.state is SessionState.ACTIVE  # as far as can be told from here
    return view_stored(session, presence="ASLEEP" if sleeps else "GONE")
