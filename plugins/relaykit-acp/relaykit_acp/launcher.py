"""AcpLauncher: starts agents that speak ACP, and sees to it that none is left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from anyio import to_thread

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentSpec, Record, ToolUse
from relaykit.conversation.frame import Frame
from relaykit.errors import AgentProtocolError
from relaykit.ids import IdGenerator
from relaykit.meter import NO_METER, Meter
from relaykit.session.model import Json, Session
from relaykit_acp import processes, questions
from relaykit_acp.agent import AcpAgent
from relaykit_acp.confinement import Confinement, made, open_confinement, watch_limits
from relaykit_acp.environment import child_environment, marker
from relaykit_acp.fetch import Fetcher
from relaykit_acp.finding import login_command
from relaykit_acp.fingerprint import fingerprint
from relaykit_acp.handshake import Handshake, way_to_resume
from relaykit_acp.household import Household, open_household
from relaykit_acp.known_agents import known_agent
from relaykit_acp.mask import mask_of
from relaykit_acp.npx import parse_npx
from relaykit_acp.process import start_process
from relaykit_acp.scratch import empty_directory
from relaykit_acp.settings import AcpSettings
from relaykit_acp.shared import Shared
from relaykit_acp.spawn_queue import SpawnQueue


@dataclass(frozen=True, slots=True)
class _Conversation:
    """An ACP session in an agent, as ``session.resources`` keeps it.

    :param session_id: the agent's own id of it.
    :param way: the method by which another process of the agent can go on with it, or None.
    """

    session_id: str
    way: str | None

    @classmethod
    def recorded_in(cls, session: Session) -> Self | None:
        recorded = session.resources.get("acp", {}).get("conversation")
        return None if recorded is None else cls(recorded["session"], recorded["resume"])

    def to_json(self) -> Json:
        return {"conversation": {"session": self.session_id, "resume": self.way}}


class AcpLauncher:
    """Starts agents that speak ACP over their standard input and output. Made by `open_acp_launcher`."""

    def __init__(
        self,
        settings: AcpSettings,
        *,
        ids: IdGenerator,
        node: str,
        environment: Mapping[str, str],
        household: Household,
        confinement: Confinement,
        directory: Path | None,
    ) -> None:
        self._settings = settings
        self._confinement = confinement
        self._ids = ids
        self._node = node
        self._environment = environment
        self._household = household
        self._directory = directory
        self._fetcher = Fetcher(
            household, ids=ids, node=node, directory=directory, seconds=settings.fetch_timeout
        )
        self._queue = SpawnQueue(settings.max_spawning, seconds=settings.spawn_queue_timeout)
        self._profiles: dict[tuple[str, ...], Shared[Json]] = {}

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        """Start the agent in `cwd` and open an ACP session there; failed or cancelled, nothing is left.

        What comes through npx is fetched first, with a deadline of its own. Then it may wait for its turn.

        :param resume: go on with the ACP session that is recorded, which is kept in the record meanwhile.
        :raises SpawnError: in one of its kinds: each says what to do.
        :raises AgentOverLimit: it used more than it may while it started.
        """
        spec = await self._ready(spec)
        async with self._queue.turn(spec.name):
            return await self._launch(spec, session, cwd, record, resume=resume)

    async def _launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, *, resume: bool
    ) -> Agent:
        earlier = _Conversation.recorded_in(session) if resume else None
        kept = earlier.to_json() if earlier else {}
        agent, known = await self._start(spec, session.id, f"session {session.id}", cwd, record, kept)
        try:
            handshake = Handshake(agent, spec, seconds=self._settings.initialize_timeout)
            way = way_to_resume(await handshake.initialize())
            if earlier is None:
                opened = await handshake.open_session(cwd)
            elif way is None:
                raise AgentProtocolError(
                    "it cannot go on with a session any more, which it could when that was begun: "
                    "use the version of the agent that it was begun with",
                    agent=spec.name,
                )
            else:
                opened = earlier.session_id
                await handshake.reopen_session(cwd, opened, method=way)
            now = _Conversation(opened, way)
            if now != earlier:
                await record({**known, **now.to_json()})
        except BaseException:
            await agent.aclose()
            raise
        return agent

    def can_resume(self, session: Session, /) -> bool:
        """Tell whether the session's last agent said that it could go on with what it has recorded."""
        recorded = _Conversation.recorded_in(session)
        return recorded is not None and recorded.way is not None

    def decline(self, request: Frame, /, *, cancelled: bool) -> Frame:
        """Return the DECISION that says no to this REQUEST, in ACP's terms."""
        return questions.decline(request, cancelled=cancelled)

    def allow(self, request: Frame, /) -> Frame | None:
        """Return the DECISION that says yes, once if that is offered; None: the REQUEST offers no yes."""
        return questions.allow(request)

    def tool_use(self, request: Frame, /) -> ToolUse | None:
        """Return what a REQUEST wants permission for."""
        return questions.tool_use(request)

    async def profile(self, spec: AgentSpec, /) -> Json:
        """Return the agent's answer to ``initialize``, given in an empty directory.

        Cached by command, for as long as its program stays the same. Concurrent calls start it once, and share a
        failure too; the next call tries anew.

        :raises SpawnError: as `launch`.
        """
        profile = self._profiles.setdefault(spec.command, Shared())
        seen = profile.failures
        ready = await self._ready(spec)
        now = await to_thread.run_sync(fingerprint, ready.command, {**self._environment, **spec.env})
        return await profile.get(partial(self._ask_profile, ready), key=now, seen=seen)

    async def _ready(self, spec: AgentSpec) -> AgentSpec:
        """Return the agent as it can be started: fetched if it comes through npx, with its login if that is known."""
        known = known_agent(spec.command)
        if known is not None and spec.login is None:
            spec = replace(spec, login=login_command(known, {**self._environment, **spec.env}))
        npx = parse_npx(spec.command)
        if npx is None:
            return spec
        program = await self._fetcher.program(npx, spec, self._environment)
        return replace(spec, command=(str(program), *npx.arguments))

    async def _ask_profile(self, spec: AgentSpec) -> Json:
        name = f"profile-{self._ids.new_id()}"
        async with self._queue.turn(spec.name), empty_directory(self._directory) as directory:
            label = f"profile of agent {spec.name!r}"
            agent, _ = await self._start(spec, name, label, directory, _forget, {})
            try:
                return await Handshake(agent, spec, seconds=self._settings.initialize_timeout).initialize()
            finally:
                await agent.aclose()

    async def _start(
        self, spec: AgentSpec, session_id: str, label: str, cwd: Path, record: Record, kept: Json
    ) -> tuple[AcpAgent, dict[str, Any]]:
        """Start the process, and return it with what was recorded of it.

        :param kept: what else the record is to hold.
        """
        environment = child_environment(
            self._environment, granted=spec.env, session_id=session_id, node=self._node
        )
        group = self._confinement.group_for(session_id)
        known = {"marker": marker(session_id), "command": list(spec.command), **kept}
        if group is not None:
            known["cgroup"] = str(group.path)
        await record(known)
        mask = mask_of(spec)
        async with made(group, agent=spec.name):
            process = await start_process(
                spec.command,
                self._household,
                environment=environment,
                cwd=cwd,
                agent=spec.name,
                label=label,
                marker=marker(session_id),
                group=group,
                mask=mask,
            )
        if group is not None:
            self._household.tasks.start_soon(partial(watch_limits, process, group, label=label))
        agent = AcpAgent(
            process,
            name=spec.name,
            label=label,
            max_frame_bytes=self._settings.max_frame_bytes,
            new_ref=lambda: f"q{self._ids.new_id()}",
            tasks=self._household.tasks,
            group=group,
            mask=mask,
        )
        try:
            stat = processes.stat(process.pid)
            started = {"start_time": stat.start_time, "boot": processes.boot_id()} if stat else {}
            known = {**known, "pid": process.pid, "pgid": process.pid, **started}
            await record(known)
        except BaseException:
            await agent.aclose()
            raise
        return agent, known


@asynccontextmanager
async def open_acp_launcher(
    settings: AcpSettings,
    *,
    ids: IdGenerator,
    node: str = "local",
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    meter: Meter = NO_METER,
) -> AsyncIterator[AcpLauncher]:
    """Open a launcher; leaving it stops every agent that is left, whatever cancels the block.

    :param node: the relay's name; its agents' processes carry it.
    :param environment: what agents get the safe part of; by default our own.
    :param directory: private to this user, for what has no session; by default the system's temporary directory.
    """
    environment = os.environ if environment is None else environment
    async with open_household(
        eof_grace=settings.eof_grace, term_grace=settings.term_grace, ids=ids, meter=meter
    ) as household:
        yield AcpLauncher(
            settings,
            ids=ids,
            node=node,
            environment=environment,
            household=household,
            confinement=await open_confinement(settings),
            directory=directory,
        )


async def _forget(_facts: Json) -> None:
    """Record nothing: a profile's process has no session, and does not outlive the call."""
