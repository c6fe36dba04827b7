"""What each message of a client does: the built-in types, and those of plugins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from relaykit.errors import RelaykitError, SessionNotFound
from relaykit.hooks.registration import MessageType
from relaykit.session import Session, SessionFilter
from relaykit_gateway.codes import Code
from relaykit_gateway.follower import compose_terminated
from relaykit_gateway.render import PERMISSION
from relaykit_gateway.views import view_session
from relaykit_gateway.wire import (
    AgentMessage,
    AnswerPermission,
    AttachSession,
    BadMessage,
    CreateSession,
    ListSessions,
    OfSession,
    StopSession,
    compose,
    fields_of,
    raw_json,
    timestamp,
)

if TYPE_CHECKING:
    from relaykit_gateway.connection import Connection

Handler = Callable[["Connection", Mapping[str, Any]], Awaitable[None]]

EVERY = "*"
_PAGE = 200


class _Option(msgspec.Struct, rename="camel"):
    option_id: str


class _Options(msgspec.Struct):
    options: list[_Option]


async def _create(connection: Connection, message: Mapping[str, Any]) -> None:
    wanted = fields_of(message, CreateSession)
    relay = connection.relay
    session = await relay.create(wanted.agent_id, agent=wanted.agent, project=wanted.project)
    created = compose(
        "session:created",
        sessionId=session.id,
        agentId=session.agent_id,
        agent=session.agent,
        project=session.project,
        timestamp=timestamp(session.created_at),
    )
    await connection.send_text(created)
    try:
        await connection.follow(session, announce=False)
    except SessionNotFound:  # a plugin ended it as soon as it was there
        await connection.send_text(compose_terminated(session.id, relay.clock.now()))


async def _prompt(connection: Connection, message: Mapping[str, Any]) -> None:
    said = fields_of(message, AgentMessage)
    blocks = [{"type": "text", "text": said.content}] if isinstance(said.content, str) else said.content
    if not blocks:
        raise BadMessage(Code.INVALID_MESSAGE, "agent:message: `content` is empty")
    await connection.check_here(said.session_id)
    turn = connection.relay.ids.new_id()
    follower = connection.follower(said.session_id)
    if follower is not None:
        follower.keep_quiet_about(turn)
    try:
        await connection.relay.prompt(
            said.session_id, raw_json({"prompt": blocks}), client_id=connection.id, turn=turn
        )
    except BaseException:
        if follower is not None:
            follower.speak_about(turn)
        raise


async def _cancel(connection: Connection, message: Mapping[str, Any]) -> None:
    await connection.relay.cancel(fields_of(message, OfSession).session_id)


async def _stop(connection: Connection, message: Mapping[str, Any]) -> None:
    wanted = fields_of(message, StopSession)
    await connection.relay.stop(wanted.session_id, wanted.reason or "stopped by a client")


async def _attach(connection: Connection, message: Mapping[str, Any]) -> None:
    wanted = fields_of(message, AttachSession)
    await connection.check_here(wanted.session_id)
    session = await connection.relay.require(wanted.session_id)
    await connection.follow(session, after=wanted.after, epoch=wanted.epoch)


async def _list(connection: Connection, message: Mapping[str, Any]) -> None:
    wanted = fields_of(message, ListSessions)
    relay = connection.relay
    found = await relay.list(SessionFilter(), after=wanted.after, limit=_PAGE + 1)
    page: list[Session] = list(found[:_PAGE])
    more = {"next": page[-1].id} if len(found) > _PAGE else {}
    sessions = [view_session(session, relay) for session in page]
    await connection.send_text(compose("session:list", sessions=sessions, **more))


async def _answer(connection: Connection, message: Mapping[str, Any]) -> None:
    given = fields_of(message, AnswerPermission)
    relay = connection.relay
    body = raw_json(_result(given))
    await relay.check_control(given.session_id, "to answer a question")
    if given.option_id is not None:
        await _check_option(connection, given.session_id, given.request_id, given.option_id)
    follower = connection.follower(given.session_id)
    if follower is not None:
        follower.keep_quiet_about(given.request_id)
    try:
        await relay.answer(given.session_id, given.request_id, body, client_id=connection.id)
    except BaseException:
        if follower is not None:
            follower.speak_about(given.request_id)
        raise


def _result(given: AnswerPermission) -> Mapping[str, Any]:
    ways = [way for way in (given.option_id, given.outcome, given.result) if way is not None]
    if len(ways) != 1:
        raise BadMessage(
            Code.INVALID_MESSAGE,
            "permission:response: give exactly one of `optionId`, `outcome` and `result`",
        )
    if given.option_id is not None:
        return {"outcome": {"outcome": "selected", "optionId": given.option_id}}
    if given.outcome is None:
        return given.result or {}
    if given.outcome == "cancelled":
        return {"outcome": {"outcome": "cancelled"}}
    if isinstance(given.outcome, str):
        raise BadMessage(Code.INVALID_MESSAGE, 'permission:response: `outcome` is "cancelled" or an object')
    return {"outcome": given.outcome}


async def _check_option(connection: Connection, session_id: str, request_id: str, option_id: str) -> None:
    """Refuse an option that was not offered: the agent would get it, and nobody could answer any more."""
    for question in (await connection.relay.live(session_id)).questions:
        request = question.request
        if request.ref == request_id and request.method == PERMISSION:
            try:
                options = msgspec.json.decode(request.body, type=_Options).options
            except msgspec.MsgspecError:
                return  # the agent offers them in a way of its own, and will know
            offered = [option.option_id for option in options]
            if option_id not in offered:
                raise BadMessage(
                    Code.INVALID_MESSAGE,
                    f"permission:response: there is no option {option_id!r}; offered: {', '.join(offered)}",
                )


async def _echo(connection: Connection, message: Mapping[str, Any]) -> None:
    await connection.send({**message, "timestamp": timestamp(connection.relay.clock.now())})


BUILT_IN: Mapping[str, Handler] = {
    "session:create": _create,
    "session:attach": _attach,
    "session:list": _list,
    "session:stop": _stop,
    "agent:message": _prompt,
    "agent:cancel": _cancel,
    "permission:response": _answer,
    "echo": _echo,
}


class MessageTable:
    """Who acts on which type of message.

    A plugin's own type goes first; then a plugin's ``*`` that replaces the built-in types; then those; then
    a plugin's ``*`` that does not: it gets what nobody else knows.

    :raises RelaykitError: a plugin takes a built-in type without saying that it replaces it.
    """

    def __init__(self, added: Iterable[MessageType]) -> None:
        self._handlers: dict[str, Handler] = dict(BUILT_IN)
        self._fallback: Handler | None = None
        for type_ in sorted(added, key=lambda type_: type_.name != EVERY):
            if type_.name != EVERY:
                if type_.name in BUILT_IN and not type_.replaces:
                    raise RelaykitError(
                        f"a plugin registers the message type {type_.name!r}, which is built in: "
                        "a MessageType that takes it over says `replaces=True`"
                    )
                self._handlers[type_.name] = type_.handle
            else:
                self._fallback = type_.handle
                if type_.replaces:
                    self._handlers.clear()

    async def handle(self, connection: Connection, message: Mapping[str, Any]) -> None:
        """Act on a message that `parse` has let through.

        :raises BadMessage: its type is unknown, or its fields are wrong.
        """
        handler = self._handlers.get(message["type"], self._fallback)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            raise BadMessage(Code.UNKNOWN_TYPE, f"unknown type {message['type'][:64]!r}; known: {known}")
        await handler(connection, message)
