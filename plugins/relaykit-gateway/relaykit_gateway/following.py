"""Following: one client that follows one session, whatever protocol it speaks."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from relaykit.conversation import Batch, Cursor, Entry
from relaykit.errors import JournalError
from relaykit.relay import LiveSession
from relaykit_gateway.channel import Channel, ClientGone
from relaykit_gateway.rendering import PerSession, Rendering

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

logger = logging.getLogger(__name__)

_BATCH_ENTRIES, _BATCH_BYTES = 256, 256 * 1024
"""As much is read at once, and stays in memory until the client has taken it."""

R = TypeVar("R", bound=Rendering)


class Following(ABC, Generic[R]):
    """Sends a session's messages to a client: reads the cursor, sends, and only then reads on.

    Nothing is queued for the client. One that does not read is behind, and costs nothing else.
    """

    protocol: ClassVar[str]
    """What hooks hear that the client speaks."""

    def __init__(self, channel: Channel[Any], session_id: str) -> None:
        self.session_id = session_id
        self.ended = anyio.Event()
        self._channel = channel
        self._scope = anyio.CancelScope()
        self.told = 0
        """The newest seq up to which everything was sent whole: what lies behind it is to be told again."""
        self.epoch_changed = False
        """The client has asked for another numbering than the session has: it is told everything."""
        self._stopped = False
        self._sending = False
        self._queue_told = 0  # its version

    async def stop(self) -> None:
        """Follow no more, and return once nothing more will be sent. What is being sent is sent whole."""
        self._stopped = True
        if not self._sending:
            self._scope.cancel()
        await self.ended.wait()

    async def run(
        self,
        after: int | None,
        epoch: str | None,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Follow the session behind the entry `after` to its end, or until `stop`.

        :param after: None for what is said from now on.
        :raises SessionNotFound: there is no such session. Nothing was sent.
        :raises CursorAhead: there is no entry `after` yet. Nothing was sent.
        """
        channel = self._channel
        try:
            with self._scope:
                live = await channel.relay.live(self.session_id)
                attachment = channel.relay.attach(
                    self.session_id,
                    client_id=channel.id,
                    protocol=self.protocol,
                    after=live.conversation.head if after is None else after,
                    epoch=epoch,
                )
                async with attachment as cursor:
                    self.told = cursor.position
                    self.epoch_changed = epoch is not None and epoch != cursor.epoch
                    with self._renderers().of(live) as renderer:
                        await self._begin(live, cursor)
                        task_status.started()
                        await self._follow_safely(live, cursor, renderer)
        finally:
            channel.forget(self)
            self.ended.set()

    async def _follow_safely(self, live: LiveSession, cursor: Cursor, renderer: R) -> None:
        """Follow; what goes wrong here ends this following, and not the client's other ones."""
        try:
            try:
                await self._follow(live, cursor, renderer)
            except ClientGone:
                raise
            except Exception as error:
                if isinstance(error, JournalError):
                    logger.warning("the transcript of session %s cannot be read: %s", self.session_id, error)
                else:
                    logger.exception("following session %s broke", self.session_id)
                if not self._stopped:
                    self._sending = True
                    await self._break_off(cursor.position)
        except ClientGone:
            self._channel.hang_up()

    async def _follow(self, live: LiveSession, cursor: Cursor, renderer: R) -> None:
        while True:
            try:
                batch = await cursor.next(_BATCH_ENTRIES, _BATCH_BYTES)
            except anyio.EndOfStream:
                break
            async with self._channel.sending:
                if not await self._send_whole(live, batch, renderer, cursor):
                    return
            if cursor.position < live.conversation.head:
                await checkpoint()  # neither reading nor sending has waited: the others have their turn
        if not self._stopped:
            self._sending = True
            await self._end()

    async def _send_whole(self, live: LiveSession, batch: Batch, renderer: R, cursor: Cursor) -> bool:
        """Send a batch, of which nothing is cut off; False once this is stopped."""
        if self._stopped:
            return False
        self._sending = True
        await self._send(batch, renderer, cursor)
        if live.queue.version != self._queue_told and cursor.position == live.conversation.head:
            await self._tell_queue(live)
        self._sending = False
        return not self._stopped

    async def _tell_queue(self, live: LiveSession) -> None:
        """Show which prompts wait: those that wait now, however often they were others since the last time."""
        if not self._hears_queue:
            return
        first, self._queue_told = not self._queue_told, live.queue.version
        if not first or live.queue.turns.waiting:  # who comes when none wait need not be told so
            await self._send_queue(live)

    async def _send_together(
        self, entries: Sequence[Entry], at: int, messages_of: Callable[[Entry], Sequence[str] | None]
    ) -> int:
        """Send what entries say from this one on, in as few goes as is best, and return where that has ended.

        :param messages_of: returns what an entry says; None to end before it.
        """
        send, most = self._channel.send_texts, self._channel.takes_together
        texts: list[str] = []
        size = 0
        for entry in islice(entries, at, None):
            messages = messages_of(entry)
            if messages is None:
                break
            at += 1
            for message in messages:
                texts.append(message)
                size += len(message)
            if size >= most:
                await send(texts)
                texts, size = [], 0
                self.told = entry.seq
        if texts:
            await send(texts)
        if at:
            self.told = entries[at - 1].seq
        return at

    # ------------------------------------------------------------ what protocols differ in

    @abstractmethod
    def _renderers(self) -> PerSession[R]:
        """Return the renderers of this protocol."""

    @abstractmethod
    def _begin(self, live: LiveSession, cursor: Cursor) -> Awaitable[None]:
        """Say what is said before anything of the conversation."""

    @abstractmethod
    def _send(self, batch: Batch, renderer: R, cursor: Cursor) -> Awaitable[None]:
        """Send what the cursor has returned. `sending` is held."""

    @property
    def _hears_queue(self) -> bool:
        """The client is told which prompts wait, from now on."""
        return True

    @abstractmethod
    def _send_queue(self, live: LiveSession) -> Awaitable[None]:
        """Send which prompts wait. `sending` is held."""

    @abstractmethod
    def _end(self) -> Awaitable[None]:
        """Say what is left to say once the conversation is over and everything of it was sent."""

    @abstractmethod
    def _break_off(self, position: int) -> Awaitable[None]:
        """Say that the transcript cannot be read on behind `position`."""
