"""One session as one function: prepare → launch → attach → converse ⇄ sleep → terminate → clean."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentLauncher, Record
from relaykit.agent.workspace import Say, Workspace
from relaykit.errors import (
    AgentError,
    AgentOverLimit,
    ManagerClosed,
    RelaykitError,
    SpawnError,
    WorkspaceError,
)
from relaykit.meter import AGENT_CRASHES, Meter
from relaykit.relay.contained_start import Close
from relaykit.relay.crashes import NotResumed, check_crashes
from relaykit.relay.live_session import LiveSession
from relaykit.relay.notices import ACTIVE, AWAKE, PREPARING, TERMINATING, notice
from relaykit.relay.rest import AgentNotStopped, check_stopped
from relaykit.relay.transcripts import journal_errors_logged
from relaykit.relay.wakes import NotRecovered, Wakes
from relaykit.session.logs import log_agent_ended
from relaykit.session.manager import Manager
from relaykit.session.model import Cause, Handle, Json, Session, SessionState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a session is run with, all chosen by name in settings.

    :param workspace_plugin: the key of ``session.resources`` under which the workspace records.
    :param close: for an agent that nobody else will close.
    :param resume_crashed: an agent that has ended by itself is started again, if it can go on where it was.
    """

    manager: Manager
    workspace: Workspace
    workspace_plugin: str
    launchers: Mapping[str, AgentLauncher]
    close: Close
    resume_crashed: bool
    meter: Meter


async def run_session(session: Session, handle: Handle, live: LiveSession, parts: Parts) -> None:
    """Run a session through its whole life: from CREATED, or from where an earlier relay has left it.

    Returns when it is CLEANED, or asleep with nobody to wake it (`LiveSession.leaving`); raises nothing of its own.

    Whoever marks the session TERMINATING cancels ``handle.scope``: that ends what goes on here, wherever
    it is, and the end follows. The end itself is shielded, so that it happens whatever cancels this task.
    """
    cause, reason = Cause.SHUTDOWN, "the relay is shutting down"  # what it is if nobody says otherwise
    try:
        with handle.scope:
            cause, reason = await _live(session, live, parts)
    finally:
        with anyio.CancelScope(shield=True):
            if not (live.leaving and await _leave(session, live, parts.manager)):
                await _end(session, handle, live, parts, cause, reason)


async def _live(session: Session, live: LiveSession, parts: Parts) -> tuple[Cause, str]:
    """Start the agent and relay until it is gone for good; return why."""
    try:
        if live.doomed:
            raise NotRecovered(live.doomed)
        if session.state is SessionState.ACTIVE:
            await _stop_what_is_left(session, parts.manager)
            agent = await _wake(session, live, parts)
        else:
            agent = await _start(session, live, parts)
        while True:
            await live.converse(agent)
            if not live.is_falling_asleep:
                await _outlive(agent, session, live, parts)
            await Wakes(parts.manager, session.id).survived()  # an end that we have seen is no relay's
            await live.lie_down()
            agent = await _wake(session, live, parts)
    except NotRecovered as error:
        return Cause.RESTART, str(error)
    except AgentOverLimit as error:
        return Cause.LIMIT, str(error)
    except (SpawnError, WorkspaceError) as error:
        live.spawn_error = error if isinstance(error, SpawnError) else None
        return Cause.SPAWN_FAILED, str(error)
    except (NotResumed, AgentError) as error:
        return Cause.AGENT_EXITED, str(error)
    except Exception as error:
        logger.exception("session %s broke", session.id)
        return Cause.INTERNAL, f"{type(error).__name__}: {error}"


async def _start(session: Session, live: LiveSession, parts: Parts) -> Agent:
    """Start the agent: anew, or, for a session that is revived, where it was if it can."""
    manager = parts.manager
    await manager.begin_spawn(session.id)
    cwd = await _prepare(session, live, parts)
    spec = live.spec
    launcher = parts.launchers[spec.launcher]
    record = _recorder(manager, session, spec.launcher)
    agent = await launcher.launch(spec, session, cwd, record, resume=launcher.can_resume(session))
    await manager.attach_agent(session.id, str(cwd), agent)  # the agent is the Manager's from here on
    live.introduce(agent)
    await live.conversation.publish([notice(ACTIVE, worktreeDir=str(cwd))])
    return agent


async def _prepare(session: Session, live: LiveSession, parts: Parts) -> Path:
    record = _recorder(parts.manager, session, parts.workspace_plugin)
    return await parts.workspace.prepare(session, record, _sayer(live))


# ---------------------------------------------------------------- asleep


async def _stop_what_is_left(session: Session, manager: Manager) -> None:
    """End what an earlier relay has left of the agent, before another is started.

    :raises NotRecovered: it cannot be ended.
    """
    try:
        check_stopped(await manager.detach_agent(session.id))
    except AgentNotStopped as error:
        raise NotRecovered(str(error)) from error


async def _outlive(agent: Agent, session: Session, live: LiveSession, parts: Parts) -> None:
    """Go on without the agent, which has ended by itself: end what is left of it, as if it were put to sleep.

    :raises NotResumed: the session does not go on.
    """
    why = agent.farewell()
    # At once: what comes from now on waits for the next.
    live.rest.lose_agent(why, in_its_midst=live.occupied)
    log_agent_ended(session, reason=why, crashed=live.rest.crashed)
    if live.rest.crashed:
        parts.meter.count(AGENT_CRASHES)
    latest = await parts.manager.get(session.id) or session
    if not (parts.resume_crashed and parts.launchers[live.spec.launcher].can_resume(latest)):
        raise NotResumed(why)
    check_crashes(live.rest)
    try:
        check_stopped(await parts.manager.detach_agent(session.id))
    except AgentNotStopped as error:
        raise NotResumed(f"{error}; {why}") from error


async def _wake(session: Session, live: LiveSession, parts: Parts) -> Agent:
    """Sleep until somebody wants the agent, and start it again where it was; if that fails, say so and sleep on.

    :raises NotRecovered: it is of no use: relays were killed over it again and again.
    :raises AgentOverLimit: it uses more than it may, which ends the session whenever it happens.
    """
    while True:
        await live.rest.until_wanted()
        try:
            return await _relaunch(session, live, parts)
        except (NotRecovered, AgentOverLimit):
            raise
        except RelaykitError as error:
            logger.warning("the agent of session %s could not be started again: %s", session.id, error)
            await live.could_not_wake(error)


async def _relaunch(session: Session, live: LiveSession, parts: Parts) -> Agent:
    manager, spec = parts.manager, live.spec
    wakes = Wakes(manager, session.id)
    await wakes.begin(failures=max(live.rest.failures, live.rest.crashes))
    latest = await manager.get(session.id) or session
    cwd = Path(latest.worktree_dir or "")
    record = _recorder(manager, session, spec.launcher)
    try:
        agent = await parts.launchers[spec.launcher].launch(spec, latest, cwd, record, resume=True)
    except RelaykitError:
        await wakes.survived()
        raise
    await manager.reattach_agent(session.id, agent)
    live.introduce(agent, when_proved=partial(_proved, live, wakes))
    await live.conversation.publish([notice(AWAKE)])
    await live.telling.awake()
    return agent


async def _proved(live: LiveSession, wakes: Wakes) -> None:
    live.rest.crashes = 0
    await wakes.survived()


# ---------------------------------------------------------------- the end


async def _leave(session: Session, live: LiveSession, manager: Manager) -> bool:
    """Leave the session to the next relay; False if that is not possible, and it is to be ended."""
    try:
        await manager.detach_agent(session.id)  # it may just have been woken
        await manager.release(session.id)
    except RelaykitError as error:
        logger.warning("session %s cannot be left asleep: %s", session.id, error)
        return False
    live.rest.end(ManagerClosed())
    await live.conversation.aclose()
    return True


async def _end(
    session: Session, handle: Handle, live: LiveSession, parts: Parts, cause: Cause, reason: str
) -> None:
    """End the session; if even that fails, leave at least no agent and no waiting client behind."""
    manager, conversation = parts.manager, live.conversation
    async with AsyncExitStack() as stack:
        stack.push_async_callback(conversation.aclose)
        if handle.agent is not None:
            stack.push_async_callback(parts.close, handle.agent)
        try:
            await manager.mark_terminating(session.id, reason, cause=cause)
            marked = await manager.get(session.id) or session  # who was first has said why
            cause, reason = marked.cause or cause, marked.reason or reason
            with journal_errors_logged(session):
                await live.finish(reason)
                await conversation.publish([notice(TERMINATING, cause=cause, reason=reason)])
            report = await manager.complete_cleanup(
                session.id
            )  # which closes the transcript: see `Transcripts`
            live.admission.known = report.session or marked
        except Exception:
            logger.exception("session %s could not be ended in order; its agent is stopped", session.id)


def _recorder(manager: Manager, session: Session, plugin: str) -> Record:
    async def record(facts: Json) -> None:
        await manager.record(session.id, plugin, facts)

    return record


def _sayer(live: LiveSession) -> Say:
    async def say(text: str) -> None:
        await live.conversation.publish([notice(PREPARING, text=text)])

    return say
