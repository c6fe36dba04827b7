"""Relay: all sessions of one process, and what a gateway calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from relaykit.agent.launcher import AgentSpec
from relaykit.clock import Clock
from relaykit.conversation.cursor import Cursor
from relaykit.conversation.journal import Entry
from relaykit.errors import DuplicateSession, ManagerClosed, SessionNotFound
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import AccessRefused, SessionRequest
from relaykit.hooks.plugin_set import PluginSet
from relaykit.hooks.registration import MessageType, Route
from relaykit.ids import IdGenerator
from relaykit.meter import Meter
from relaykit.relay.access import Access, Role
from relaykit.relay.attachments import Attachments, FollowedBy
from relaykit.relay.defaults import chosen_agent, chosen_project
from relaykit.relay.life import begun_anew
from relaykit.relay.live_session import LiveSession
from relaykit.relay.live_sessions import LiveSessions, RoleKey
from relaykit.relay.locator import Locator
from relaykit.relay.rest import Presence
from relaykit.relay.restricted import RestrictedRelay
from relaykit.relay.running import RunningFile
from relaykit.relay.transcripts import Transcripts
from relaykit.session.manager import Manager
from relaykit.session.model import Cause, Json, Session, SessionFilter, check_agent_id
from relaykit.settings import Settings

_A_MOMENT = timedelta(minutes=1)
"""Clocks are set back now and then."""


class Relay:
    """Starts, relays and ends sessions. Made by `open_relay`; used from its loop alone.

    A method that is cancelled does not leave a session half made: what it began goes on in the relay's
    own tasks. Sessions are shown as they were at one version.

    :param routes: what plugins want mounted on a gateway.
    :param messages: what plugins add to the relay protocol.
    :param locator: what a gateway asks before it lets a client follow or prompt a session.
    :param listening: a service that listens was started.
    :param running: where a service says how it is reached; None in an embedding application.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        plugins: PluginSet,
        agents: Mapping[str, AgentSpec],
        routes: Sequence[Route],
        messages: Sequence[MessageType],
        running: RunningFile | None,
        manager: Manager,
        sessions: LiveSessions,
        transcripts: Transcripts,
        dispatcher: Dispatcher,
        meter: Meter,
        clock: Clock,
        ids: IdGenerator,
        tasks: TaskGroup,
        locator: Locator,
    ) -> None:
        self.settings = settings
        self.plugins = plugins
        self.agents = agents
        self.routes = routes
        self.messages = messages
        self.running = running
        self.announcements: list[str] = []
        self.listening = False
        self.manager = manager
        self.locator = locator
        self.meter = meter
        self.clock = clock
        self.ids = ids
        self.closing = False
        self._sessions = sessions
        self._transcripts = transcripts
        self._dispatcher = dispatcher
        self._tasks = tasks
        self._attachments = Attachments(sessions, dispatcher, meter=meter, clock=clock)

    # ------------------------------------------------------------ what is configured

    def agent(self, name: str = "") -> AgentSpec:
        """Return an agent by its name, or the default one: see `default_agent`.

        :raises UnknownAgent: no such agent, or no default among several.
        """
        return chosen_agent(self.settings, self.agents, name)

    def project(self, name: str = "") -> str:
        """Return the name of a project that is configured: this one, or the default one.

        :raises UnknownProject: no such project, or no default among several.
        """
        return chosen_project(self.settings, name)

    async def profile(self, agent: str = "") -> Json:
        """Return what an agent says of itself before any session (ACP: its answer to ``initialize``). Cached.

        :raises UnknownAgent: as `agent`.
        :raises SpawnError: it cannot be started; each kind says what to do.
        """
        spec = self.agent(agent)
        return await self._sessions.launcher(spec).profile(spec)

    # ------------------------------------------------------------ sessions

    async def create(
        self,
        agent_id: str,
        *,
        agent: str = "",
        project: str = "",
        owner: str = "local",
        actor: str = "client",
        mcp_servers: Sequence[Json] = (),
    ) -> Session:
        """Create a session and start it; it goes on by itself. Its conversation tells how.

        :param agent: a configured agent's name; empty for the default one.
        :param project: a configured project's name; empty for the default one.
        :param mcp_servers: for this session, besides the agent's own. They are not checked: none that a client
            names may start a program.
        :raises InvalidAgentId: the role could not name a directory and a branch.
        :raises UnknownAgent: no such agent, or no default among several.
        :raises UnknownProject: no such project, or no default among several.
        :raises DuplicateRole: the role is played already.
        :raises SessionLimit: there are as many sessions as settings allow.
        :raises Refused: a policy said no.
        :raises ManagerClosed: the relay is shutting down.
        """
        check_agent_id(agent_id)
        spec = self.agent(agent)
        if mcp_servers:
            spec = replace(spec, mcp_servers=(*spec.mcp_servers, *mcp_servers))
        project = self.project(project)
        await self._check_session(agent_id, spec.name, project, owner)
        create = partial(
            self.manager.create, agent_id, agent=spec.name, owner=owner, project=project, actor=actor
        )
        return await self._sessions.start(spec, create, role=RoleKey(owner, project, agent_id))

    async def revive(self, session_id: str, *, actor: str = "client") -> Session:
        """Start a session that has ended anew: its id, its role and its transcript go on, in its workspace.

        Its agent goes on where it was if it can; else it is a new one, which knows nothing of what was said.

        :raises SessionNotFound: nothing of such a session is kept.
        :raises UnknownAgent: its agent is not configured any more.
        :raises UnknownProject: nor its project.
        :raises DuplicateRole: another session plays its role meanwhile.
        :raises DuplicateSession: it runs already.
        :raises SessionLimit: there are as many sessions as settings allow.
        :raises Refused: a policy said no.
        :raises ManagerClosed: the relay is shutting down.
        """
        ended = await self._transcripts.journal.find(session_id)
        if ended is None:
            if await self.manager.get(session_id) is not None:
                raise DuplicateSession(session_id)
            raise SessionNotFound(session_id)
        spec = self.agent(ended.agent)
        self.project(ended.project)
        await self._check_session(ended.agent_id, spec.name, ended.project, ended.owner)
        anew = begun_anew(ended, at=self.clock.now())
        create = partial(self.manager.revive, anew, actor=actor)
        role = RoleKey(ended.owner, ended.project, ended.agent_id)
        return await self._sessions.start(spec, create, role=role)

    async def _check_session(self, agent_id: str, agent: str, project: str, owner: str) -> None:
        if self._dispatcher.listens_to("relaykit_check_session"):
            await self._dispatcher.check_session(
                SessionRequest(agent_id=agent_id, agent=agent, project=project, owner=owner)
            )
        if self.closing:
            raise ManagerClosed

    async def stop(
        self, session_id: str, reason: str, *, cause: Cause = Cause.REQUESTED, actor: str = "client"
    ) -> None:
        """Begin to end a session. Returns once it is TERMINATING; `wait_ended` waits for the rest.

        :raises SessionNotFound: there is no such session.
        """
        await self.require(session_id)
        await self.manager.mark_terminating(session_id, reason, cause=cause, actor=actor)

    async def wait_ended(self, session_id: str) -> None:
        """Wait until a session that runs here is CLEANED and its transcript closed. Unknown: it has ended."""
        live = self._sessions.get(session_id)
        if live is not None:
            await live.ended.wait()

    async def get(self, session_id: str) -> Session | None:
        """Return the session, or None."""
        return await self.manager.get(session_id)

    async def require(self, session_id: str) -> Session:
        """Return the session.

        :raises SessionNotFound: there is none.
        """
        session = await self.manager.get(session_id)
        if session is None:
            raise SessionNotFound(session_id)
        return session

    async def list(self, where: SessionFilter, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """Return up to `limit` sessions that match, in order of id, those behind the id `after` only."""
        return await self.manager.list(where, after=after, limit=limit)

    def clients(self, session_id: str) -> int:
        """Return how many clients follow the session here."""
        live = self._sessions.get(session_id)
        return live.clients if live else 0

    def observers(self, session_id: str) -> int:
        """Return how many of the clients that follow the session here only watch."""
        return self._attachments.observers(session_id)

    def needs_login(self, session_id: str) -> bool:
        """Tell whether the session's agent, which runs here, takes no prompts until a person logs it in."""
        live = self._sessions.get(session_id)
        return live is not None and live.needs_login

    def presence(self, session_id: str) -> Presence:
        """Tell where the session's agent is; GONE if the session does not run here."""
        live = self._sessions.get(session_id)
        return live.rest.presence if live is not None else Presence.GONE

    # ------------------------------------------------------------ what has ended

    async def ended(
        self, where: SessionFilter, *, before: datetime | None = None, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        """Return up to `limit` sessions that have ended and whose transcripts are kept, the latest first.

        :param before: only those that ended before this moment.
        :param skip: leave out so many of the first: the next page.
        """
        before = before or self.clock.now() + _A_MOMENT
        return await self._transcripts.journal.ended(where, before=before, skip=skip, limit=limit)

    async def find(self, session_id: str) -> Session:
        """Return a session that runs, or as it ended.

        :raises SessionNotFound: nothing of it is kept.
        """
        session = await self.manager.get(session_id) or await self._transcripts.journal.find(session_id)
        if session is None:
            raise SessionNotFound(session_id)
        return session

    async def transcript(
        self, session_id: str, *, after: int = 0, limit: int = 512, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries of what was said behind `after`, in a session that runs or has ended.

        :param max_bytes: how much of it at most, see `Journal.read`.
        :raises JournalError: it cannot be read.
        """
        live = self._sessions.get(session_id)
        if live is not None:
            return await live.conversation.read(after=after, limit=limit, max_bytes=max_bytes)
        return await self._transcripts.journal.read(session_id, after=after, limit=limit, max_bytes=max_bytes)

    # ------------------------------------------------------------ what is said

    async def prompt(
        self, session_id: str, body: bytes, *, client_id: str, turn: str, by: str = ""
    ) -> Entry | None:
        """Say something to the agent; see `LiveSession.prompt`. The answer comes by `attach`.

        :param by: who says it, for plugins: see `answer`.
        :return: how the turn ended, if it is one that has ended already.
        :raises SessionNotFound: there is no such session.
        """
        return await self._sessions.require(session_id).prompt(body, client_id=client_id, turn=turn, by=by)

    async def cancel(self, session_id: str) -> None:
        """Have the agent end its running turn, if there is one.

        :raises SessionNotFound: there is no such session.
        """
        await self._sessions.require(session_id).cancel()

    async def call(
        self, session_id: str, method: str, body: bytes, *, client_id: str, ref: str, by: str = ""
    ) -> None:
        """Put any other request to the agent; see `Calls.put`. Its RESULT comes by `attach`.

        :param by: who asks, for plugins: see `answer`.
        :raises SessionNotFound: there is no such session.
        """
        await self._sessions.require(session_id).calls.put(method, body, client_id=client_id, ref=ref, by=by)

    async def cancel_call(self, session_id: str, ref: str) -> None:
        """Tell the agent that nobody needs the answer to a CALL any more. It answers all the same.

        :raises SessionNotFound: there is no such session.
        """
        await self._sessions.require(session_id).calls.cancel(ref)

    async def answer(
        self, session_id: str, ref: str, body: bytes | None, *, client_id: str, by: str = ""
    ) -> None:
        """Answer an open question; the first answer wins.

        :param body: raw JSON of the result. None: there is none, and the agent hears that it was cancelled.
        :param by: who answers, for the transcript and for people: a token's name, or an application's own name of
            its user. By default the client's id.
        :raises SessionNotFound: there is no such session.
        :raises QuestionClosed: somebody was faster.
        """
        await self._sessions.require(session_id).answer(ref, body, client_id=client_id, by=by)

    async def tell_refused(self, refusal: AccessRefused) -> None:
        """Tell plugins that a gateway lets somebody not in, who waits for that: so a flood of them cannot pile up."""
        await self._dispatcher.access_refused(refusal)

    def live(self, session_id: str) -> LiveSession:
        """Return the live half of a session: its conversation and its open questions, to look at.

        :raises SessionNotFound: there is no such session here.
        """
        return self._sessions.require(session_id)

    def attach(
        self,
        session_id: str,
        *,
        client_id: str,
        protocol: str,
        owner: str = "local",
        role: Role = Role.CONTROLLER,
        after: int = 0,
        epoch: str | None = None,
        by: str = "",
    ) -> AbstractAsyncContextManager[Cursor]:
        """Follow a session's conversation behind entry `after` for as long as the block lasts.

        Nothing is queued for the client: it reads the cursor at its own pace. Leaving ends nothing. An agent that
        sleeps is woken.

        :param by: who follows: see `answer`.
        :param role: what hooks hear, and is counted. It holds the client to nothing: `restricted_to` does.
        :raises SessionNotFound: there is no such session.
        :raises CursorAhead: there is no entry `after` yet.
        """
        follower = FollowedBy(client_id, protocol, owner, role, by or client_id)
        return self._attachments.attach(session_id, follower, after=after, epoch=epoch)

    def restricted_to(self, access: Access, *, name: str = "") -> RestrictedRelay:
        """Return this relay as a client may use it.

        :param name: what the client goes by in transcripts: see `answer`.
        """
        return RestrictedRelay(self, access, name=name)

    # ------------------------------------------------------------ its own life

    def start(self, background: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function in the background until the relay ends, when it is cancelled.

        What it raises ends the relay: catch what is expected.
        """
        self._tasks.start_soon(background)

    def announce(self, line: str) -> None:
        """Leave a line for the person who starts ``relaykit serve``: printed there, never logged."""
        self.announcements.append(line)

    async def aclose(self) -> None:
        """End every session in order: new ones are refused, agents stopped, workspaces cleaned. Idempotent.

        With a storage that outlives the relay, sessions whose agents can go on later sleep instead, unless
        ``[relay] on_shutdown`` says otherwise.
        """
        self.closing = True
        sleep = self._sessions.durable and self.settings.relay.on_shutdown == "sleep"
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ending:
                for live in self._sessions:
                    ending.start_soon(partial(self._sessions.shut_down, live, sleep=sleep))
