"""Channel: one client's WebSocket, from its upgrade to its close, whatever is spoken over it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, TypeVarTuple

import anyio
from anyio.abc import TaskGroup
from starlette.types import Message, Receive, Scope, Send

from relaykit.errors import SessionElsewhere
from relaykit.relay.access import Access
from relaykit.relay.restricted import RestrictedRelay
from relaykit_gateway.credentials import SUBPROTOCOL, caller_of
from relaykit_gateway.limits import FLOOD_SECONDS, MessageRate
from relaykit_gateway.stalls import TRY_AGAIN_LATER, Pipe, Progress, place_of

if TYPE_CHECKING:
    from relaykit_gateway.following import Following
    from relaykit_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
POLICY_VIOLATION = 1008

_GOODBYE_SECONDS = 2.0
_DISMISSAL_SECONDS = 0.5
_TOGETHER = 32 * 1024

F = TypeVar("F", bound="Following[Any]")
Ts = TypeVarTuple("Ts")


class ClientGone(Exception):
    """The client is not there any more: nothing can be sent to it."""


class Channel(ABC, Generic[F]):
    """Acts on a client's messages one after the other, and has a follower for each session that it follows.

    A disconnect ends nothing but the following.

    :param caller: whose client it is.
    :param relay: the relay, as this client may use it.
    :param sending: held while something is sent, so that messages of several sessions do not mix.
    """

    protocol: ClassVar[str]
    """What is spoken here, in one word."""

    def __init__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        self.gateway = gateway
        self.caller = caller_of(scope)
        self.relay: RestrictedRelay = gateway.relay.restricted_to(self.caller.access, name=self.caller.name)
        self.id = gateway.relay.ids.new_id()
        self.sending = anyio.Lock(fast_acquire=True)
        self._subprotocol = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
        self._rate = MessageRate(gateway.settings.max_messages_per_second, gateway.relay.clock)
        self.progress = Progress()
        self._receive = receive
        self._send = send
        self._followers: dict[str, F] = {}
        self._tasks: TaskGroup | None = None
        self._closed = False
        self._dismissed = False
        self._sent_away: list[F] | None = None  # what followed then, if it was

    @property
    def access(self) -> Access:
        """What it may see and do."""
        return self.caller.access

    @property
    def owner(self) -> str:
        """Whose sessions it may see."""
        return self.access.owner

    # ------------------------------------------------------------ its life

    async def run(self, pipe: Pipe | None = None) -> None:
        """Serve the client until it goes, or is sent away. Called once, with the upgrade still to be accepted.

        :param pipe: what the server knows of the connection.
        """
        self.progress.pipe = pipe
        await self._receive()  # websocket.connect
        try:
            await self.send_event(
                {
                    "type": "websocket.accept",
                    "subprotocol": self._subprotocol,
                    "headers": list(self._headers()),
                }
            )
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                with self.gateway.connected(self):
                    await self._serve()
                tasks.cancel_scope.cancel()
            if self._sent_away is not None and not self._closed:
                await self._let_go(self._sent_away)
        except ClientGone:
            logger.debug("client %s went before it was served", self.id)

    async def _serve(self) -> None:
        try:
            await self._welcome()
            while not self._closed:
                event = await self._receive()
                if event["type"] == "websocket.disconnect":
                    return
                if self._dismissed:
                    await anyio.sleep_forever()  # until it has been told why
                await self._act_on(event)
                if (seconds := self._rate.take()) > 0:
                    await self._slow_down(seconds)
        except ClientGone:
            return

    async def _slow_down(self, seconds: float) -> None:
        """Read nothing for a while: what the client says meanwhile stays with it, and it hears what there is."""
        if self._rate.is_flooded:
            limit = self.gateway.settings.max_messages_per_second
            logger.warning("client %s sends too much, and is sent away", self.id)
            why = f"more than {limit} messages a second, for {FLOOD_SECONDS:g} seconds"
            await self.close(POLICY_VIOLATION, why)
        else:
            await anyio.sleep(seconds)

    def _headers(self) -> Iterable[tuple[bytes, bytes]]:
        """Return what the answer to the upgrade is to say besides."""
        return ()

    async def _welcome(self) -> None:
        """Say what is said first."""

    @abstractmethod
    async def _act_on(self, event: Message) -> None:
        """Act on one frame of the client's. What goes wrong is told to it; only `ClientGone` is raised."""

    def spawn(self, function: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Run a coroutine function beside the reading, until the client goes."""
        if self._tasks is not None:
            self._tasks.start_soon(self._run_safely, function, *args)

    async def _run_safely(self, function: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        try:
            await function(*args)
        except ClientGone:
            self.hang_up()

    async def say_goodbye(self) -> None:
        """Let what was said reach the client, and close: the relay goes away. Ends within a few seconds."""
        with anyio.move_on_after(_GOODBYE_SECONDS):
            for follower in list(self._followers.values()):
                await follower.ended.wait()
            try:
                await self.close(GOING_AWAY, "the relay is shutting down")
            except ClientGone:
                logger.debug("client %s went by itself", self.id)
        self.hang_up()

    async def close(self, code: int, reason: str) -> None:
        """Send the client away.

        :raises ClientGone: it has gone already.
        """
        async with self.sending:
            if not self._closed:
                await self.send_event({"type": "websocket.close", "code": code, "reason": reason})
                self._closed = True

    def dismiss(self, why: str) -> None:
        """Send the client away because it may not be here any more; nothing that it says is acted on from now on."""
        if not self._dismissed:
            self._dismissed = True
            logger.info("client %s is sent away: %s", self.id, why)
            self.spawn(self._dismiss, why)

    async def _dismiss(self, why: str) -> None:
        with anyio.move_on_after(_DISMISSAL_SECONDS):  # one that does not read hears nothing anyway
            await self.close(POLICY_VIOLATION, why)
        self.hang_up()

    def send_away(self) -> bool:
        """Close with the client's place in the reason: it takes nothing. False if that is being done already."""
        if self._sent_away is not None or self._closed:
            return False
        self._sent_away = list(self._followers.values())
        self.hang_up()
        return True

    async def _let_go(self, followers: Iterable[F]) -> None:
        """Close, without waiting for the client to take what was sent before."""
        reason = place_of(
            self.gateway.relay, [(follower.session_id, follower.told) for follower in followers]
        )
        logger.info("client %s takes nothing, and is sent away: %s", self.id, reason)
        self._closed = True
        if self.progress.pipe is not None:
            self.progress.pipe.let_go(TRY_AGAIN_LATER, reason)
            return
        with anyio.move_on_after(_GOODBYE_SECONDS), suppress(OSError):
            await self._send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": reason})

    def hang_up(self) -> None:
        """End everything here without another word."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # ------------------------------------------------------------ what it hears

    async def send_text(self, text: str) -> None:
        """Send a message that is JSON already.

        :raises ClientGone: there is nobody to hear it.
        """
        async with self.sending:
            await self.send_event({"type": "websocket.send", "text": text})

    @property
    def takes_together(self) -> int:
        """How many characters of messages are best sent together; 0: each message is best sent alone."""
        return _TOGETHER if self.progress.pipe is not None else 0

    async def send_texts(self, texts: Sequence[str]) -> None:
        """Send messages that are JSON already, in one go if the server can; whoever calls it holds `sending`.

        :raises ClientGone: there is nobody to hear it.
        """
        pipe = self.progress.pipe
        if pipe is None:
            for text in texts:
                await self.send_event({"type": "websocket.send", "text": text})
            return
        if self._closed:
            raise ClientGone
        try:
            with self.progress:
                await pipe.send_texts(texts)
        except OSError as error:  # as below
            raise ClientGone from error

    async def send_event(self, event: Message) -> None:
        """Send an ASGI event; whoever calls it holds `sending`.

        :raises ClientGone: there is nobody to hear it.
        """
        if self._closed:
            raise ClientGone
        try:
            with self.progress:
                await self._send(event)
        except OSError as error:  # what ASGI has servers raise when the client has gone
            raise ClientGone from error

    # ------------------------------------------------------------ what it follows

    async def check_here(self, session_id: str) -> None:
        """Check that a session is this node's, if anybody's: asked before it is followed or prompted.

        :raises SessionElsewhere: another node has it.
        """
        where = await self.relay.locate(session_id)
        if not where.here:
            raise SessionElsewhere(session_id, where.node)

    def follower(self, session_id: str) -> F | None:
        """Return what follows this session for the client, or None."""
        return self._followers.get(session_id)

    async def _replace(self, follower: F) -> None:
        """Put a follower in the place of the one that followed its session before, which ends."""
        before = self._followers.get(follower.session_id)
        self._followers[follower.session_id] = follower
        if before is not None:
            await before.stop()

    async def _start(self, follower: F, *, after: int | None, epoch: str | None) -> None:
        """Have a follower begin.

        :param after: the entry behind which to begin; None for what is said from now on.
        :raises SessionNotFound: there is no such session.
        :raises CursorAhead: there is no entry `after` yet.
        """
        if self._tasks is None:
            raise ClientGone
        await self._tasks.start(follower.run, after, epoch)

    def forget(self, follower: F) -> None:
        """Note that a follower has ended."""
        if self._followers.get(follower.session_id) is follower:
            del self._followers[follower.session_id]
