"""One session as one function: prepare → launch → attach → converse → terminate → clean."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentLauncher, Record
from relaykit.agent.workspace import Workspace
from relaykit.conversation.frame import Frame, Kind
from relaykit.errors import AgentError, JournalError, SpawnError, WorkspaceError
from relaykit.relay.live_session import LiveSession
from relaykit.session.cleaner import CleanupReport
from relaykit.session.manager import Manager
from relaykit.session.model import Cause, Handle, Json, Session

logger = logging.getLogger(__name__)

ACTIVE = "active"
"""NOTICE: the agent takes prompts. Body: ``{"worktreeDir"}``."""
TERMINATING = "terminating"
"""NOTICE: the session is being ended. Body: ``{"cause", "reason"}``."""
ENDED = "ended"
"""NOTICE, the last entry: body ``{"cause", "reason", "cleanup": [{"cleaner", "outcome", "detail"}]}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a session is run with, all chosen by name in settings.

    :param workspace_plugin: the key of ``session.resources`` under which the workspace records.
    """

    manager: Manager
    workspace: Workspace
    workspace_plugin: str
    launchers: Mapping[str, AgentLauncher]


async def run_session(session: Session, handle: Handle, live: LiveSession, parts: Parts) -> None:
    """Run a CREATED session through its whole life. Returns when it is CLEANED; raises nothing of its own.

    Whoever marks the session TERMINATING cancels ``handle.scope``: that ends what goes on here, wherever
    it is, and the end follows. The end itself is shielded, so that it happens whatever cancels this task.
    """
    cause, reason = Cause.SHUTDOWN, "the relay is shutting down"  # what it is if nobody says otherwise
    try:
        with handle.scope:
            cause, reason = await _live(session, live, parts)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(session, handle, live, parts, cause, reason)


async def _live(session: Session, live: LiveSession, parts: Parts) -> tuple[Cause, str]:
    """Start the agent and relay until it is gone; return why."""
    try:
        agent = await _start(session, live, parts)
        await live.converse(agent)
    except SpawnError as error:
        live.spawn_error = error
        return Cause.SPAWN_FAILED, str(error)
    except WorkspaceError as error:
        return Cause.SPAWN_FAILED, str(error)
    except AgentError as error:
        return Cause.AGENT_EXITED, str(error)
    except Exception as error:
        logger.exception("session %s broke", session.id)
        return Cause.INTERNAL, f"{type(error).__name__}: {error}"
    return Cause.AGENT_EXITED, agent.farewell()


async def _start(session: Session, live: LiveSession, parts: Parts) -> Agent:
    manager = parts.manager
    await manager.begin_spawn(session.id)
    cwd = await parts.workspace.prepare(session, _recorder(manager, session, parts.workspace_plugin))
    spec = live.spec
    launcher = parts.launchers[spec.launcher]
    agent = await launcher.launch(spec, session, cwd, _recorder(manager, session, spec.launcher))
    await manager.attach_agent(session.id, str(cwd), agent)  # the agent is the Manager's from here on
    live.introduce(agent)
    await live.conversation.publish([_notice(ACTIVE, {"worktreeDir": str(cwd)})])
    return agent


async def _end(
    session: Session, handle: Handle, live: LiveSession, parts: Parts, cause: Cause, reason: str
) -> None:
    """End the session; if even that fails, leave at least no agent and no waiting client behind."""
    manager, conversation = parts.manager, live.conversation
    async with AsyncExitStack() as stack:
        stack.push_async_callback(conversation.aclose)
        if handle.agent is not None:
            stack.push_async_callback(handle.agent.aclose)
        try:
            await manager.mark_terminating(session.id, reason, cause=cause)
            marked = await manager.get(session.id) or session  # who was first has said why
            cause, reason = marked.cause or cause, marked.reason or reason
            with _journal_errors_logged(session):
                await live.finish(reason)
                await conversation.publish([_notice(TERMINATING, {"cause": cause, "reason": reason})])
            report = await manager.complete_cleanup(session.id)
            with _journal_errors_logged(session):
                await conversation.publish([_ended(cause, reason, report)])
                await conversation.end(report.session or marked)
        except Exception:
            logger.exception("session %s could not be ended in order; its agent is stopped", session.id)


@contextmanager
def _journal_errors_logged(session: Session) -> Iterator[None]:
    """Let a session end although its transcript cannot say so."""
    try:
        yield
    except JournalError as error:
        logger.warning("the transcript of session %s lacks its end: %s", session.id, error)


def _recorder(manager: Manager, session: Session, plugin: str) -> Record:
    async def record(facts: Json) -> None:
        await manager.record(session.id, plugin, facts)

    return record


def _ended(cause: Cause, reason: str, report: CleanupReport) -> Frame:
    cleanup = [
        {"cleaner": result.cleaner, "outcome": result.outcome, "detail": result.detail}
        for result in report.results
    ]
    return _notice(ENDED, {"cause": cause, "reason": reason, "cleanup": cleanup})


def _notice(method: str, body: Mapping[str, Any]) -> Frame:
    return Frame(Kind.NOTICE, json.dumps(body).encode(), method=method)
