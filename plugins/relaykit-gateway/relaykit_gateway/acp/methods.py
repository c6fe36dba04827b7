"""What the relay does with each method of a client's: its own part of ACP. All else goes to the agent."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from relaykit.conversation import Entry
from relaykit.errors import UnknownProject
from relaykit.relay.rest import Presence
from relaykit.session import Session, SessionFilter
from relaykit_gateway.acp.envelope import Message, compose_error, key_of
from relaykit_gateway.acp.errors import CANCELLED, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from relaykit_gateway.acp.follower import AcpFollower
from relaykit_gateway.acp.history import history_page
from relaykit_gateway.acp.pending import Opening
from relaykit_gateway.acp.splice import members_of, object_of, without
from relaykit_gateway.acp.wanted import (
    CancelRequest,
    History,
    ListSessions,
    NewSession,
    OfSession,
    check_mcp_servers,
    params_of,
    project_at,
)
from relaykit_gateway.wire import timestamp

if TYPE_CHECKING:
    from relaykit_gateway.acp.connection import AcpConnection

Handler = Callable[["AcpConnection", bytes, Message], Awaitable[bytes | None]]

_TURN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_PAGE = 100


async def answer_request(connection: AcpConnection, raw_id: bytes, message: Message) -> bytes | None:
    """Act on a request, and return its raw result; None if it is answered in time by somebody else.

    :raises RpcError: it cannot be acted on.
    :raises RelaykitError: as the relay says.
    """
    return await _METHODS.get(message.method, _call)(connection, raw_id, message)


async def act_on_notification(connection: AcpConnection, message: Message) -> None:
    """Act on a notification; those that the relay does not know are dropped.

    :raises RpcError: it cannot be acted on.
    :raises RelaykitError: as the relay says.
    """
    if message.method == "session/cancel":
        await _cancel(connection, b"", message)
    elif message.method == "$/cancel_request":
        await _cancel_request(connection, message)


# ---------------------------------------------------------------- sessions


async def _new(connection: AcpConnection, raw_id: bytes, message: Message) -> None:
    wanted = params_of(message, NewSession)
    gateway, relay = connection.gateway, connection.relay
    check_mcp_servers(wanted.mcp_servers, allowed=gateway.settings.client_mcp_servers)
    said, wishes = wanted.relaykit, connection.wishes
    session = await relay.create(
        said.role or wishes.get("role") or f"acp-{relay.ids.new_id()[:12]}",
        agent=said.agent or wishes.get("agent", ""),
        project=said.project or wishes.get("project") or project_at(wanted.cwd, relay.projects),
        mcp_servers=wanted.mcp_servers or (),
    )
    await connection.follow(session.id, Opening(raw_id, creates=True), after=0)


async def _load(connection: AcpConnection, raw_id: bytes, message: Message) -> None:
    await _open(connection, raw_id, message, after=0)


async def _resume(connection: AcpConnection, raw_id: bytes, message: Message) -> None:
    await _open(connection, raw_id, message, after=None)


async def _open(connection: AcpConnection, raw_id: bytes, message: Message, *, after: int | None) -> None:
    wanted = params_of(message, OfSession)
    check_mcp_servers(wanted.mcp_servers, allowed=connection.gateway.settings.client_mcp_servers)
    said = wanted.relaykit
    await connection.follow(
        wanted.session_id,
        Opening(raw_id),
        after=after if said.after is None else said.after,
        epoch=said.epoch,
    )


async def _list(connection: AcpConnection, _raw_id: bytes, message: Message) -> bytes:
    wanted = params_of(message, ListSessions)
    where = SessionFilter(project=_listed_project(connection, wanted.cwd or ""))
    found = await connection.relay.list(where, after=wanted.cursor or "", limit=_PAGE + 1)
    page = found[:_PAGE]
    more = {"nextCursor": page[-1].id} if len(found) > _PAGE else {}
    return object_of({"sessions": [_listed(connection, session) for session in page], **more})


def _listed_project(connection: AcpConnection, cwd: str) -> str | None:
    """Return the project that ``session/new`` would choose; None for all, where that is nobody's to tell."""
    relay = connection.relay
    named = connection.wishes.get("project", "")
    if not named and not cwd:
        return None
    try:
        return relay.project(named or project_at(cwd, relay.projects))
    except UnknownProject:
        if named:
            raise
        return None


def _listed(connection: AcpConnection, session: Session) -> Mapping[str, object]:
    project = connection.relay.settings.projects.get(session.project)
    facts = {
        "role": session.agent_id,
        "agent": session.agent,
        "owner": session.owner,
        "project": session.project,
        "state": session.state,
        "presence": connection.relay.presence(session.id),
        "needsLogin": connection.relay.needs_login(session.id),
    }
    return {
        "sessionId": session.id,
        "cwd": session.worktree_dir or (str(project.path) if project else "/"),
        "title": session.agent_id,
        "updatedAt": timestamp(session.activity.last_active),
        "_meta": {"relaykit": facts},
    }


async def _history(connection: AcpConnection, _raw_id: bytes, message: Message) -> bytes:
    return await history_page(connection.relay, params_of(message, History))


async def _close(connection: AcpConnection, _raw_id: bytes, message: Message) -> bytes:
    await connection.relay.stop(params_of(message, OfSession).session_id, "closed by a client")
    return b"{}"


async def _refuse(_connection: AcpConnection, _raw_id: bytes, message: Message) -> bytes:
    raise RpcError(METHOD_NOT_FOUND, f"{message.method}: {_REFUSED[message.method]}")


# ---------------------------------------------------------------- turns


async def _prompt(connection: AcpConnection, raw_id: bytes, message: Message) -> None:
    wanted = params_of(message, OfSession)
    turn = wanted.relaykit.turn if connection.aware else ""
    if turn and _TURN.fullmatch(turn) is None:
        raise RpcError(INVALID_PARAMS, "session/prompt: a turn's id is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
    turn = turn or connection.relay.ids.new_id()
    await connection.relay.check_control(wanted.session_id, "to prompt")
    follower = await connection.followed(wanted.session_id)
    pending = follower.pending
    pending.await_turn(turn, raw_id)  # before it begins: it may end while we are still told that it did
    try:
        end = await connection.relay.prompt(
            wanted.session_id, without(message.params, "sessionId"), client_id=connection.id, turn=turn
        )
    except Exception:
        if pending.give_up_turn(turn, raw_id):
            raise
        return  # the session ended meanwhile, and with it this request
    # One that ended is answered in its place, unless the client is past it.
    if end is not None and end.seq <= follower.sent and pending.give_up_turn(turn, raw_id):
        await follower.answer_late(end, raw_id)


async def _cancel(connection: AcpConnection, _raw_id: bytes, message: Message) -> bytes:
    session_id = params_of(message, OfSession).session_id
    follower = connection.follower(session_id)
    if follower is not None:  # what waits is taken back first: it would begin when the running turn ends
        for turn in list(follower.pending.turns):
            _tell_withdrawn(connection, session_id, await connection.relay.withdraw(session_id, turn))
    await connection.relay.cancel(session_id)
    return b"{}"


async def _cancel_request(connection: AcpConnection, message: Message) -> None:
    key = key_of(params_of(message, CancelRequest).request_id)
    for follower in connection.followers:
        pending, session_id = follower.pending, follower.session_id
        if turn := pending.turn_of(key):
            if (end := await connection.relay.withdraw(session_id, turn)) is not None:
                _tell_withdrawn(connection, session_id, end)
            elif (await connection.relay.live(session_id)).turn == turn:
                await connection.relay.cancel(session_id)
        elif ref := pending.call_of(key):
            await connection.relay.cancel_call(session_id, ref)
        elif (
            pending.opening is not None and pending.opening.creates and key_of(pending.opening.raw_id) == key
        ):
            raw_id, pending.opening = pending.opening.raw_id, None
            cancelled = RpcError(CANCELLED, "the request was cancelled, and its session is ended")
            await connection.send_text(compose_error(raw_id, bytes(cancelled)))
            await connection.relay.stop(session_id, "its client cancelled it before it was open")


def _tell_withdrawn(connection: AcpConnection, session_id: str, end: Entry | None) -> None:
    """Have every client that waits for a turn which was taken back hear so: it may have been sent twice."""
    if end is None:
        return
    for channel in connection.gateway.channels:
        follower = channel.follower(session_id)
        if isinstance(follower, AcpFollower):
            channel.spawn(follower.settle, end)


# ---------------------------------------------------------------- everything else


async def _call(connection: AcpConnection, raw_id: bytes, message: Message) -> None:
    if "sessionId" not in (members_of(message.params) or {}):
        raise RpcError(
            METHOD_NOT_FOUND,
            f"method not found: {message.method[:200]}; with a `sessionId`, it would go to that session's agent",
        )
    session_id = params_of(message, OfSession).session_id
    await connection.relay.check_control(session_id, f"{message.method[:100]!r}")
    follower = await connection.followed(session_id)
    ref = connection.relay.ids.new_id()
    follower.pending.calls[ref] = raw_id
    body = without(message.params, "sessionId")

    async def put() -> None:
        try:
            await connection.relay.call(session_id, message.method, body, client_id=connection.id, ref=ref)
        except Exception:
            if follower.pending.calls.pop(ref, None) is not None:
                raise
            # The session ended meanwhile, and with it this request.

    if connection.relay.presence(session_id) is Presence.AWAKE:
        await put()
    else:  # it may take a while until the agent is there, and the client is heard meanwhile
        connection.spawn(connection.answer_errors, raw_id, put)


_REFUSED: Mapping[str, str] = {
    "session/delete": "the relay keeps its sessions' transcripts; end a session by session/close",
    "authenticate": "a person logs the agent in on the relay's machine; an error that wants it names the command",
    "logout": "a person logs the agent out on the relay's machine",
}

_METHODS: Mapping[str, Handler] = {
    "session/new": _new,
    "session/load": _load,
    "session/resume": _resume,
    "session/list": _list,
    "session/close": _close,
    "_relaykit/history": _history,
    "session/prompt": _prompt,
    "session/cancel": _cancel,
    **dict.fromkeys(_REFUSED, _refuse),
}
