"""AcpConnection: one client of ``/acp``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import anyio
from starlette.types import Message as Event
from starlette.types import Receive, Scope, Send

from relaykit.errors import QuestionClosed, RelaykitError, SessionNotFound
from relaykit_gateway.acp.envelope import (
    IdTooLong,
    Malformed,
    Message,
    compose_error,
    compose_result,
    key_of,
    read,
)
from relaykit_gateway.acp.errors import CANCELLED, INVALID_REQUEST, RpcError, rpc_error_of
from relaykit_gateway.acp.follower import AcpFollower
from relaykit_gateway.acp.methods import act_on_notification, answer_request
from relaykit_gateway.acp.pending import Opening, Pending
from relaykit_gateway.acp.profile import describe
from relaykit_gateway.acp.splice import object_of
from relaykit_gateway.acp.wanted import awareness
from relaykit_gateway.channel import POLICY_VIOLATION, PROTOCOL_ERROR, Channel, ClientGone
from relaykit_gateway.codes import Code

if TYPE_CHECKING:
    from relaykit_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Room for the photos that phones take."""

_TOO_BIG = 1009


class AcpConnection(Channel[AcpFollower]):
    """Speaks ACP with a client: requests are begun in their order, and answered as they are done.

    :param wishes: the query: ``agent``, ``project`` and ``role`` for what the client does not say itself.
    """

    protocol = "acp"

    def __init__(
        self, gateway: Gateway, scope: Scope, receive: Receive, send: Send, wishes: Mapping[str, str]
    ) -> None:
        super().__init__(gateway, scope, receive, send)
        self.wishes = wishes
        self.aware = False
        """The client knows relaykit, and gets the ``_relaykit/…`` notifications."""
        self.hears_own_turns = True
        """It gets ``_relaykit/turn_started`` also of its own prompts."""
        self._initialized = False
        self._initializing: anyio.Event | None = None

    def _headers(self) -> Iterable[tuple[bytes, bytes]]:
        return [(b"acp-connection-id", self.id.encode())]

    # ------------------------------------------------------------ what it says

    async def _act_on(self, event: Event) -> None:
        text = event.get("text")
        if text is None:
            return  # as ACP's remote transport has it
        if len(text) * 4 > MAX_MESSAGE_BYTES and len(text.encode()) > MAX_MESSAGE_BYTES:
            await self.close(_TOO_BIG, f"a message is longer than {MAX_MESSAGE_BYTES} bytes")
            return
        try:
            message = read(text)
        except Malformed as malformed:
            await self.send_text(compose_error(malformed.raw_id, bytes(malformed.error)))
        except IdTooLong:
            await self.close(POLICY_VIOLATION, "the id of a request is too long")
        else:
            await self._act_on_message(message)

    async def _act_on_message(self, message: Message) -> None:
        if self._initializing is not None:
            await self._initializing.wait()
        if not self._initialized:
            if message.method != "initialize" or not message.id:
                await self.close(PROTOCOL_ERROR, "the first message is `initialize`")
                return
            self._initializing = anyio.Event()
            # It may take a while to ask the agent, and the client's pongs are to be heard meanwhile.
            self.spawn(self._initialize, bytes(message.id), bytes(message.params))
        elif message.method and message.id:
            await self._answer(bytes(message.id), message)
        else:
            await self._hear(message)

    async def _hear(self, message: Message) -> None:
        """Act on what nobody waits for an answer to."""
        try:
            if message.method:
                await act_on_notification(self, message)
            else:
                await self._take_answer(message)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 -- it is told or logged, whatever it is
            if self._told_of(error).code is not Code.INTERNAL:
                logger.info("what client %s said could not be acted on: %s", self.id, error)

    async def _initialize(self, raw_id: bytes, params: bytes) -> None:
        initializing = self._initializing
        try:
            profile = await self.relay.profile(self.wishes.get("agent", ""))
        except Exception as error:  # noqa: BLE001 -- it is told or logged, whatever it is
            answer = compose_error(raw_id, bytes(self._told_of(error)))
        else:
            described = describe(profile, connection_id=self.id, role=self.access.role)
            answer = compose_result(raw_id, object_of(described))
            known = awareness(params)
            self.aware = known is not None
            self.hears_own_turns = known is None or known.own_turns
            self._initialized = True
        await self.send_text(answer)
        self._initializing = None
        if initializing is not None:
            initializing.set()

    async def _answer(self, raw_id: bytes, message: Message) -> None:
        try:
            if message.method == "initialize":
                raise RpcError(INVALID_REQUEST, "this connection is initialized already")
            result = await answer_request(self, raw_id, message)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 -- it is told or logged, whatever it is
            await self.send_text(compose_error(raw_id, bytes(self._told_of(error))))
        else:
            if result is not None:
                await self.send_text(compose_result(raw_id, result))

    async def answer_errors(self, raw_id: bytes, act: Callable[[], Awaitable[None]]) -> None:
        """Do what is not waited for, and answer the request with an error if it cannot be done.

        :raises ClientGone: there is nobody to hear it.
        """
        try:
            await act()
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 -- it is told or logged, whatever it is
            await self.send_text(compose_error(raw_id, bytes(self._told_of(error))))

    def _told_of(self, error: Exception) -> RpcError:
        """Return what the client is told of an error; what is none of its business is logged."""
        told = error if isinstance(error, RpcError) else rpc_error_of(error)
        if told.code is Code.INTERNAL:
            logger.error("what client %s said could not be acted on", self.id, exc_info=error)
        return told

    async def _take_answer(self, message: Message) -> None:
        """Give an agent the answer to its question; what is no answer any more is dropped."""
        ref = key_of(message.id)
        if not isinstance(ref, str):
            return
        result = bytes(message.result)
        body = result if result.startswith(b"{") else None  # no agent asks for anything else
        for follower in self.followers:
            if await self._has_answered(follower, ref, body):
                return

    async def _has_answered(self, follower: AcpFollower, ref: str, body: bytes | None) -> bool:
        answered = follower.pending.answered
        answered.add(ref)
        try:
            await self.relay.answer(follower.session_id, ref, body, client_id=self.id)
        except BaseException as error:
            answered.discard(ref)
            if isinstance(error, QuestionClosed | SessionNotFound):
                return False
            raise
        return True

    # ------------------------------------------------------------ what it follows

    @property
    def followers(self) -> list[AcpFollower]:
        """What follows sessions for the client."""
        return list(self._followers.values())

    async def follow(
        self, session_id: str, opening: Opening | None, *, after: int | None, epoch: str | None = None
    ) -> AcpFollower:
        """Follow a session, anew if it is followed already, and return its follower.

        :param opening: what the follower is to answer once the session is open to the client.
        :param after: the entry behind which to begin; None for what is said from now on.
        :raises SessionElsewhere: another node has it.
        :raises SessionNotFound: there is no such session.
        :raises CursorAhead: there is no entry `after` yet.
        """
        await self.check_here(session_id)
        live = await self.relay.live(session_id)
        session = await self.relay.require(session_id)
        before = self._followers.get(session_id)
        pending = before.pending if before is not None else Pending()
        follower = AcpFollower(self, session, live, pending)
        await self._replace(follower)
        if (replaced := pending.take_opening()) is not None:
            error = RpcError(CANCELLED, "the session is opened once more, and that will be answered")
            await self.send_text(compose_error(replaced.raw_id, bytes(error)))
        pending.opening = opening
        if before is not None:  # what it has not heard is nothing of the past
            after = before.sent if after is None else min(after, before.sent)
        try:
            await self._start(follower, after=after, epoch=epoch)
        except RelaykitError as error:
            pending.opening = None  # whoever has asked hears it from our caller
            await follower.fail_all(rpc_error_of(error))
            raise
        return follower

    async def followed(self, session_id: str) -> AcpFollower:
        """Return the follower of a session; one that is not followed yet is followed from now on.

        :raises SessionNotFound: there is no such session.
        """
        return self._followers.get(session_id) or await self.follow(session_id, None, after=None)
