"""Witnesses: clients that note all they are told, and the check that a storage holds it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from relaykit.conversation import Entry, Journal, Kind
from relaykit.session import Session, SessionFilter, SessionState, Store
from support.servers import Server
from support.talk import Refusal, Talker

_PATIENCE = 30.0
FAR = datetime(2100, 1, 1, tzinfo=UTC)
Storage = Callable[[], AbstractAsyncContextManager[tuple[Store, Journal]]]

_KINDS = {
    "agent:update": {Kind.UPDATE, Kind.PROMPT},
    "agent:response": {Kind.TURN_END},
    "permission:request": {Kind.REQUEST},
    "permission:resolved": {Kind.DECISION},
    "session:ready": {Kind.NOTICE},
    "session:terminated": {Kind.NOTICE},
}


@dataclass
class Witness:
    """One client's conversation, in one session after another, over many relays.

    :param role: its sessions' role.
    :param say: what it says, time after time.
    :param stops: it ends its session after each turn.
    :ivar told: by session, what it was told under each number.
    """

    role: str
    agent: str
    say: str
    stops: bool = False
    told: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    session: str = ""
    turns: int = 0
    trouble: BaseException | None = None

    def converse(self, server: Server) -> None:
        """Talk until the relay is gone."""
        try:
            with suppress(ConnectionError), Talker(server) as talker:
                while True:
                    self._come_back(talker)
                    self._one_turn(talker)
                    if self.stops:
                        talker.say("session:stop", sessionId=self.session)
                        with suppress(Refusal):  # an earlier relay was told already
                            self._hear(talker, "session:terminated")
                        self.session = ""
        except BaseException as error:  # noqa: BLE001 -- raised by who joins the thread
            self.trouble = error

    def _come_back(self, talker: Talker) -> None:
        if self.session:
            talker.say(
                "session:attach", sessionId=self.session, after=max(self.told[self.session], default=0)
            )
            try:
                self._hear(talker, "session:caught_up")
            except Refusal:  # it has ended meanwhile
                self.session = ""
        deadline = time.monotonic() + _PATIENCE
        while not self.session:
            talker.say("session:create", agentId=self.role, agent=self.agent)
            try:
                self.session = self._hear(talker, "session:created")["sessionId"]
                self.told.setdefault(self.session, {})
                self._hear(talker, "session:ready")
            except Refusal as refusal:
                # The last one is being ended, and nobody tells those who do not follow it; or the database is away.
                if not _passes(str(refusal)) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _one_turn(self, talker: Talker) -> None:
        talker.say("agent:message", sessionId=self.session, content=self.say)
        with suppress(Refusal):  # the turn was interrupted, or the session ended
            self._hear(talker, "agent:response")
        self.turns += 1

    def _hear(self, talker: Talker, *until: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(talker.socket.receive())
            if "seq" in message and message["type"] != "session:caught_up":
                told = self.told.setdefault(message["sessionId"], {})
                known = told.setdefault(message["seq"], message)
                assert known == message, f"{known} became {message}"
            kind = message["type"]
            if kind == "permission:request":
                talker.say(
                    "permission:response",
                    sessionId=message["sessionId"],
                    requestId=message["requestId"],
                    optionId=message["options"][0]["optionId"],
                )
            elif kind == "error" and ("seq" not in message or "agent:response" in until):
                raise Refusal(message["error"]["message"])
            if kind in until:
                return message


def _passes(refusal: str) -> bool:
    return "already played" in refusal or "postgres:" in refusal


def talk_until(
    witnesses: Iterable[Witness], server: Server, end: Callable[[], None], *, patience: float
) -> None:
    """Have all witnesses talk at once, call `end`, and wait until they have noticed."""
    threads = [threading.Thread(target=witness.converse, args=(server,)) for witness in witnesses]
    for thread in threads:
        thread.start()
    end()
    for thread in threads:
        thread.join(patience)
        assert not thread.is_alive(), "a client did not notice that the relay was gone"
    for witness in witnesses:
        if witness.trouble is not None:
            raise witness.trouble


async def check(witnesses: Iterable[Witness], open_storage: Storage) -> Mapping[str, Session]:
    """Check that everything that was told is in the storage, under its number; return every session there is."""
    async with open_storage() as (store, journal):
        sessions = {session.id: session for session in await store.list(SessionFilter(), limit=10_000)}
        for session in await journal.ended(SessionFilter(), before=FAR, limit=100_000):
            assert session.state is SessionState.CLEANED
            assert session.cause, f"session {session.id} ended, and nothing says why"
            assert session.reason
            sessions.setdefault(session.id, session)
        for witness in witnesses:
            for session_id, told in witness.told.items():
                assert session_id in sessions, f"session {session_id} of {witness.role} is gone"
                entries = await _transcript(journal, session_id)
                assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
                for seq, message in told.items():
                    assert seq <= len(entries), f"entry {seq} of {witness.role} is gone: {message}"
                    _check_told(entries[seq - 1], message)
        return sessions


async def _transcript(journal: Journal, session_id: str) -> list[Entry]:
    entries: list[Entry] = []
    while page := await journal.read(session_id, after=len(entries), limit=5_000):
        entries += page
    return entries


def _check_told(entry: Entry, message: Mapping[str, Any]) -> None:
    kinds = _KINDS.get(message["type"])
    assert kinds is None or entry.frame.kind in kinds, f"{message} is now {entry}"
    if message["type"] == "agent:update" and entry.frame.kind is Kind.UPDATE:
        assert json.loads(entry.frame.body)["update"] == message["update"], f"{message} is now {entry}"


@asynccontextmanager
async def sqlite_storage(path: Path) -> AsyncIterator[tuple[Store, Journal]]:
    """Open the database of a relay that is gone."""
    from relaykit_sqlite.storage import open_sqlite

    async with open_sqlite(path) as storage:
        yield storage
