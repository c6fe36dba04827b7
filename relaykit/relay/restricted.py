"""RestrictedRelay: the relay as one client may use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from relaykit.clock import Clock
from relaykit.conversation.cursor import Cursor
from relaykit.conversation.journal import Entry
from relaykit.errors import SessionNotFound, UnknownProject
from relaykit.ids import IdGenerator
from relaykit.relay.access import Access, Role
from relaykit.relay.live_session import LiveSession
from relaykit.relay.locator import Where
from relaykit.relay.rest import Presence
from relaykit.session.model import Json, Session, SessionFilter, SessionState
from relaykit.settings import ProjectSettings, Settings

if TYPE_CHECKING:
    from relaykit.relay.relay import Relay


class Work(NamedTuple):
    """What goes on in a session.

    :param turn: a turn runs.
    :param queued: prompts that wait for it.
    :param questions: those that wait for an answer.
    """

    turn: bool
    queued: int
    questions: int


NO_WORK = Work(turn=False, queued=0, questions=0)


class RestrictedRelay:
    """What a gateway gives its clients in the relay's place. The methods are `Relay`'s, and do what they do there.

    A session that the client may not see is to it as if it did not exist: `SessionNotFound`. What it may see and
    not do raises `NotAllowed`. Whoever holds a `Relay` may do everything: this stands between it and whoever
    comes from outside, so that a method which is forgotten here is missing, and not open.

    :param name: what the client goes by in transcripts; empty for the id of its connection.
    """

    def __init__(self, relay: Relay, access: Access, *, name: str = "") -> None:
        self._relay = relay
        self.access = access
        self.name = name

    # ------------------------------------------------------------ what is configured

    @property
    def settings(self) -> Settings:
        """The relay's settings."""
        return self._relay.settings

    @property
    def clock(self) -> Clock:
        """The relay's clock."""
        return self._relay.clock

    @property
    def ids(self) -> IdGenerator:
        """What makes the relay's ids."""
        return self._relay.ids

    @property
    def projects(self) -> Mapping[str, ProjectSettings]:
        """The configured projects that the client may see, by name."""
        configured, allowed = self.settings.projects, self.access.projects
        if allowed is None:
            return configured
        return {name: project for name, project in configured.items() if name in allowed}

    def project(self, name: str = "") -> str:
        """Return the name of a project: this one, or the default one among those that the client may see.

        :raises UnknownProject: no such project, or no default among several.
        """
        if self.access.projects is None:
            return self._relay.project(name)
        projects = self.projects
        only = next(iter(projects)) if len(projects) == 1 else ""
        chosen = name or only or self.settings.relay.default_project
        if chosen not in projects:
            raise UnknownProject(name, projects)
        return chosen

    async def profile(self, agent: str = "") -> Json:
        """Return what an agent says of itself before any session; see `Relay.profile`."""
        return await self._relay.profile(agent)

    # ------------------------------------------------------------ sessions

    async def create(
        self,
        agent_id: str,
        *,
        agent: str = "",
        project: str = "",
        mcp_servers: Sequence[Json] = (),
    ) -> Session:
        """Create a session of the client's owner; see `Relay.create`.

        :raises NotAllowed: an observer creates none, nor who is for certain sessions alone.
        """
        self.access.check_creation()
        return await self._relay.create(
            agent_id,
            agent=agent,
            project=self.project(project),
            owner=self.access.owner,
            actor=self._actor,
            mcp_servers=mcp_servers,
        )

    async def revive(self, session_id: str) -> Session:
        """Start a session that has ended anew; see `Relay.revive`."""
        await self.find(session_id)
        self.access.check_control("to resume a session")
        return await self._relay.revive(session_id, actor=self._actor)

    async def stop(self, session_id: str, reason: str) -> None:
        """Begin to end a session; see `Relay.stop`."""
        await self._controlled(session_id, "to stop a session")
        await self._relay.stop(session_id, reason, actor=self._actor)

    @property
    def _actor(self) -> str:
        return self.name or "client"

    async def get(self, session_id: str) -> Session | None:
        """Return the session, or None."""
        session = await self._relay.get(session_id)
        return session if session is not None and self.access.sees(session) else None

    async def require(self, session_id: str) -> Session:
        """Return the session.

        :raises SessionNotFound: there is none.
        """
        session = await self.get(session_id)
        if session is None:
            raise SessionNotFound(session_id)
        return session

    async def find(self, session_id: str) -> Session:
        """Return a session that runs, or as it ended.

        :raises SessionNotFound: nothing of it is kept.
        """
        session = await self._relay.find(session_id)
        if not self.access.sees(session):
            raise SessionNotFound(session_id)
        return session

    async def _controlled(self, session_id: str, what: str) -> None:
        await self.require(session_id)
        self.access.check_control(what)

    # ------------------------------------------------------------ lists

    async def list(self, where: SessionFilter, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """Return up to `limit` sessions that match, in order of id, those behind the id `after` only."""
        narrowed = self._narrowed(where)
        if self.access.sessions is not None:
            named = [await self.get(id_) for id_ in sorted(self.access.sessions) if id_ > after]
            return [session for session in named if session is not None and narrowed.matches(session)][:limit]
        found: list[Session] = []
        while len(found) < limit:
            page = await self._relay.list(narrowed, after=after, limit=limit)
            found += filter(self.access.sees, page)
            if len(page) < limit:
                break
            after = page[-1].id
        return found[:limit]

    async def ended(
        self, where: SessionFilter, *, before: datetime | None = None, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        """Return up to `limit` sessions that have ended, the latest first; see `Relay.ended`."""
        narrowed = self._narrowed(where)
        if self.access.sessions is not None:
            return (await self._named_that_ended(narrowed, before))[skip : skip + limit]
        if narrowed.project is not None or self.access.projects is None:
            page = await self._relay.ended(narrowed, before=before, skip=skip, limit=limit)
            return list(
                filter(self.access.sees, page)
            )  # all, or none of a project that the client does not see
        # The journal skips what the client does not see too, so that only counting here tells where a page begins.
        found: list[Session] = []
        read = 0
        while len(found) < skip + limit:
            page = await self._relay.ended(narrowed, before=before, skip=read, limit=limit)
            found += filter(self.access.sees, page)
            read += len(page)
            if len(page) < limit:
                break
        return found[skip : skip + limit]

    async def _named_that_ended(self, where: SessionFilter, before: datetime | None) -> Sequence[Session]:
        found: list[tuple[datetime, Session]] = []
        for session_id in sorted(self.access.sessions or ()):
            try:
                session = await self.find(session_id)
            except SessionNotFound:
                continue
            at = session.ended_at or session.activity.last_active
            if (
                session.state is SessionState.CLEANED
                and where.matches(session)
                and (before is None or at < before)
            ):
                found.append((at, session))
        found.sort(key=lambda each: each[0], reverse=True)  # stable: those of one moment stay in order of id
        return [session for _, session in found]

    def _narrowed(self, where: SessionFilter) -> SessionFilter:
        """Return a filter that lets less through; what it cannot say is looked at one by one."""
        projects = self.access.projects
        only = next(iter(projects)) if projects is not None and len(projects) == 1 else None
        owner = where.owner if self.access.all_owners else self.access.owner
        return replace(where, owner=owner, project=where.project or only)

    # ------------------------------------------------------------ what is known of a session that was shown

    async def locate(self, session_id: str) -> Where:
        """Return where a session lives, or would be looked for; see `Locator`."""
        return await self._relay.locator.locate(session_id)

    def clients(self, session_id: str) -> int:
        """Return how many clients follow the session here."""
        return self._relay.clients(session_id)

    def observers(self, session_id: str) -> int:
        """Return how many of them only watch."""
        return self._relay.observers(session_id)

    def needs_login(self, session_id: str) -> bool:
        """Tell whether the session's agent takes no prompts until a person logs it in."""
        return self._relay.needs_login(session_id)

    def work(self, session_id: str) -> Work:
        """Tell what goes on in the session, as far as it runs here."""
        try:
            live = self._relay.live(session_id)
        except SessionNotFound:
            return NO_WORK
        return Work(bool(live.turn), len(live.queue.turns.waiting), len(live.questions))

    def presence(self, session_id: str) -> Presence:
        """Tell where the session's agent is; GONE if the session does not run here."""
        return self._relay.presence(session_id)

    async def transcript(
        self, session_id: str, *, after: int = 0, limit: int = 512, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries of what was said behind `after`; see `Relay.transcript`.

        :raises SessionNotFound: nothing of the session is kept.
        """
        await self.find(session_id)
        return await self._relay.transcript(session_id, after=after, limit=limit, max_bytes=max_bytes)

    # ------------------------------------------------------------ what is said

    async def prompt(self, session_id: str, body: bytes, *, client_id: str, turn: str) -> Entry | None:
        """Say something to the agent; see `Relay.prompt`."""
        await self._controlled(session_id, "to prompt")
        return await self._relay.prompt(session_id, body, client_id=client_id, turn=turn, by=self.name)

    async def cancel(self, session_id: str) -> None:
        """Have the agent end its running turn; see `Relay.cancel`."""
        await self._controlled(session_id, "to cancel a turn")
        await self._relay.cancel(session_id)

    async def withdraw(self, session_id: str, turn: str) -> Entry | None:
        """Take back a prompt that still waits for its turn; see `LiveSession.withdraw`."""
        await self._controlled(session_id, "to take back a prompt")
        return self._relay.live(session_id).withdraw(turn)

    async def call(self, session_id: str, method: str, body: bytes, *, client_id: str, ref: str) -> None:
        """Put any other request to the agent; see `Relay.call`."""
        await self._controlled(session_id, f"{method[:100]!r}, which asks something of the agent,")
        await self._relay.call(session_id, method, body, client_id=client_id, ref=ref, by=self.name)

    async def cancel_call(self, session_id: str, ref: str) -> None:
        """Tell the agent that nobody needs the answer to a CALL any more; see `Relay.cancel_call`."""
        await self._controlled(session_id, "to cancel a request")
        await self._relay.cancel_call(session_id, ref)

    async def answer(self, session_id: str, ref: str, body: bytes | None, *, client_id: str) -> None:
        """Answer an open question; see `Relay.answer`."""
        await self._controlled(session_id, "to answer a question")
        await self._relay.answer(session_id, ref, body, client_id=client_id, by=self.name)

    async def check_control(self, session_id: str, what: str) -> None:
        """Refuse who only watches, before anything is begun for it. Who controls is looked at by what it then calls.

        :param what: what is to be done, for people: ``to prompt``.
        :raises SessionNotFound: there is no such session for this observer.
        :raises NotAllowed: there is.
        """
        if self.access.role is not Role.CONTROLLER:
            await self._controlled(session_id, what)

    async def live(self, session_id: str) -> LiveSession:
        """Return the live half of a session, to look at: what is done with it is done here.

        :raises SessionNotFound: there is no such session here.
        """
        await self.require(session_id)
        return self._relay.live(session_id)

    @asynccontextmanager
    async def attach(
        self, session_id: str, *, client_id: str, protocol: str, after: int = 0, epoch: str | None = None
    ) -> AsyncIterator[Cursor]:
        """Follow a session's conversation for as long as the block lasts; see `Relay.attach`."""
        await self.require(session_id)
        attached = self._relay.attach(
            session_id,
            client_id=client_id,
            protocol=protocol,
            owner=self.access.owner,
            role=self.access.role,
            after=after,
            epoch=epoch,
            by=self.name,
        )
        async with attached as cursor:
            yield cursor
