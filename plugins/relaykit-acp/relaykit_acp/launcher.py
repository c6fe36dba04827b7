"""AcpLauncher: starts agents that speak ACP, and sees to it that none is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentSpec, Record
from relaykit.errors import SpawnError
from relaykit.ids import IdGenerator
from relaykit.session.model import Json, Session
from relaykit_acp import processes
from relaykit_acp.agent import AcpAgent
from relaykit_acp.environment import child_environment, marker
from relaykit_acp.handshake import Handshake
from relaykit_acp.household import Census, Household
from relaykit_acp.process import start_process
from relaykit_acp.settings import AcpSettings


@dataclass(slots=True)
class _Profile:
    """What one command says of itself, and the attempts to hear it."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    attempts: int = 0
    answer: Json | None = None
    error: SpawnError | None = None


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
    ) -> None:
        self._settings = settings
        self._ids = ids
        self._node = node
        self._environment = environment
        self._household = household
        self._profiles: dict[tuple[str, ...], _Profile] = {}

    async def launch(self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /) -> Agent:
        """Start the agent in `cwd` and open an ACP session there; failed or cancelled, nothing is left.

        :raises SpawnError: in one of its kinds: each says what to do.
        """
        agent = await self._start(spec, session.id, f"session {session.id}", cwd, record)
        try:
            handshake = Handshake(agent, spec, seconds=self._settings.initialize_timeout)
            await handshake.initialize()
            await handshake.open_session(cwd)
        except BaseException:
            await agent.aclose()
            raise
        return agent

    async def profile(self, spec: AgentSpec, /) -> Json:
        """Return the agent's answer to ``initialize``, given in an empty directory.

        Cached by command. Concurrent calls start it once, and share a failure too; the next call tries anew.

        :raises SpawnError: as `launch`.
        """
        profile = self._profiles.setdefault(spec.command, _Profile())
        seen = profile.attempts
        async with profile.lock:
            if profile.answer is not None:
                return profile.answer
            if profile.error is not None and profile.attempts != seen:
                raise profile.error
            try:
                profile.answer = await self._ask_profile(spec)
            except SpawnError as error:
                profile.error = error
                profile.attempts += 1
                raise
            return profile.answer

    async def aclose(self) -> None:
        """Stop every agent that is left. To be called when no `launch` and no `profile` is under way."""
        async with anyio.create_task_group() as tasks:
            for process in self._household.live:
                tasks.start_soon(process.aclose)

    async def _ask_profile(self, spec: AgentSpec) -> Json:
        name = f"profile-{self._ids.new_id()}"
        with anyio.CancelScope(shield=True):
            directory = Path(await to_thread.run_sync(tempfile.mkdtemp, None, "relaykit-"))
        try:
            agent = await self._start(spec, name, f"profile of agent {spec.name!r}", directory, _forget)
            try:
                return await Handshake(agent, spec, seconds=self._settings.initialize_timeout).initialize()
            finally:
                await agent.aclose()
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))

    async def _start(
        self, spec: AgentSpec, session_id: str, label: str, cwd: Path, record: Record
    ) -> AcpAgent:
        environment = child_environment(
            self._environment, granted=spec.env, session_id=session_id, node=self._node
        )
        known = {"marker": marker(session_id), "command": list(spec.command)}
        await record(known)
        process = await start_process(
            spec.command,
            self._household,
            environment=environment,
            cwd=cwd,
            agent=spec.name,
            label=label,
            marker=marker(session_id),
        )
        agent = AcpAgent(
            process,
            name=spec.name,
            label=label,
            max_frame_bytes=self._settings.max_frame_bytes,
            new_ref=lambda: f"q{self._ids.new_id()}",
            tasks=self._household.tasks,
        )
        try:
            stat = processes.stat(process.pid)
            started = {"start_time": stat.start_time, "boot": processes.boot_id()} if stat else {}
            await record({**known, "pid": process.pid, "pgid": process.pid, **started})
        except BaseException:
            await agent.aclose()
            raise
        return agent


@asynccontextmanager
async def open_acp_launcher(
    settings: AcpSettings,
    *,
    ids: IdGenerator,
    node: str = "local",
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[AcpLauncher]:
    """Open a launcher; leaving it stops every agent that is left, whatever cancels the block.

    :param node: the relay's name; its agents' processes carry it.
    :param environment: what agents get the safe part of; by default our own.
    """
    environment = os.environ if environment is None else environment
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        household = Household(
            eof_grace=settings.eof_grace, term_grace=settings.term_grace, tasks=tasks, census=Census(tasks)
        )
        launcher = AcpLauncher(settings, ids=ids, node=node, environment=environment, household=household)
        try:
            yield launcher
        except Exception as error:  # noqa: BLE001 -- raised again below, out of the task group, which would wrap it
            failure = error
        finally:
            with anyio.CancelScope(shield=True):
                await launcher.aclose()
    if failure is not None:
        raise failure


async def _forget(_facts: Json) -> None:
    """Record nothing: a profile's process has no session, and does not outlive the call."""
