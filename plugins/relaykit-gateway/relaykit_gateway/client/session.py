"""RemoteSession and Turn: one session of a relay elsewhere, and one prompt in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import anyio

from relaykit_gateway.acp_client.events import (
    PERMISSION,
    AcpError,
    Event,
    Gap,
    Json,
    Question,
    SessionEnded,
    SessionOpened,
    TurnEnded,
    TurnStarted,
    Update,
)
from relaykit_gateway.address import ClientError
from relaykit_gateway.websocket_client import Disconnected

if TYPE_CHECKING:
    from relaykit_gateway.acp_client import AcpClient
    from relaykit_gateway.client.relay import RemoteRelay

OnQuestion = Callable[[Question], Awaitable["str | Json | None"]]
"""Answers a question: the id of an option, the whole result that ACP has for it, or None to leave it to others."""

_AHEAD = 256
"""Events that are taken from the connection before somebody iterates; then the relay keeps them."""

GONE = -32002
"""ACP's code: there is no such session."""


class SessionOver(ClientError):
    """The session has ended.

    :param cause: ``REQUESTED``, ``AGENT_EXITED`` …
    :param reason: the same for people.
    """

    def __init__(self, session_id: str, cause: str, reason: str) -> None:
        super().__init__(f"session {session_id} has ended: {reason or cause}")
        self.session_id = session_id
        self.cause = cause
        self.reason = reason


class Prompted:
    """A prompt that is not over, as its session knows it; and what came of it and was not taken yet."""

    def __init__(self, ref: str, content: str | Sequence[Json]) -> None:
        self.ref = ref
        self.content = content
        self.stop_reason = ""
        self.error: Exception | None = None
        self.is_left = False
        self._is_over = False
        self._came: deque[Update | Gap] = deque()
        self._changed = anyio.Event()

    async def hear(self, event: Update | Gap) -> None:
        """Take what comes; wait while nobody takes it from us; forget it where nobody ever will."""
        while len(self._came) >= _AHEAD and not self.is_left:
            await self._changed.wait()
        if not self.is_left:
            self._came.append(event)
            self._notify()

    async def next(self) -> Update | Gap:
        """Return what came next.

        :raises EndOfStream: the turn is over.
        """
        while not self._came:
            if self._is_over:
                raise anyio.EndOfStream
            await self._changed.wait()
        self._notify()
        return self._came.popleft()

    def end(self, stop_reason: str = "", error: Exception | None = None) -> None:
        """Note that nothing more comes."""
        self.stop_reason, self.error, self._is_over = stop_reason, error, True
        self._notify()

    def leave(self) -> None:
        """Note that nobody takes anything any more."""
        self.is_left = True
        self._came.clear()
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class Turn:
    """A prompt and what comes of it. Iterate over it: `Update` by `Update`, and `Gap` for what the relay kept no more.

    The prompt is sent when the iteration begins, which ends with the turn. Whoever leaves it early, or lets go of this,
    ends nothing: `RemoteSession.cancel` does. The iteration raises `AcpError` if the turn failed (the agent answered
    with an error, or the relay took no prompt), `SessionOver` if the session ended before it, and another `ClientError`
    if the relay could not be reached for too long.
    """

    def __init__(self, session: RemoteSession, prompted: Prompted) -> None:
        self._session = session
        self._prompted = prompted
        self._begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update | Gap:
        if not self._begun:
            self._begun = True
            await self._session.begin(self._prompted)
        try:
            return await self._prompted.next()
        except anyio.EndOfStream:
            if self._prompted.error is not None:
                raise self._prompted.error from None
            raise StopAsyncIteration from None

    def __del__(self) -> None:
        with suppress(RuntimeError):  # the loop is gone, or the collector runs in another thread
            self.leave()

    @property
    def id(self) -> str:
        """The turn's id, which is the same for all clients."""
        return self._prompted.ref

    @property
    def stop_reason(self) -> str:
        """Why the agent has stopped: ``end_turn``, ``cancelled`` …; empty until then."""
        return self._prompted.stop_reason

    async def text(self) -> str:
        """Iterate to the end, and return what the agent has said."""
        return "".join([said.text async for said in self if isinstance(said, Update)])

    def leave(self) -> None:
        """Take no more of it. The turn goes on."""
        self._prompted.leave()


class RemoteSession:
    """A session of a relay elsewhere. Made by `RemoteRelay.create` and `RemoteRelay.open`.

    :ivar id: its id, by which any client finds it again.
    :ivar over: why nothing can be said in it any more; None while it runs.
    """

    def __init__(self, relay: RemoteRelay, opened: SessionOpened, on_question: OnQuestion | None) -> None:
        self.id = opened.session_id
        self.role = opened.role
        self.agent = opened.agent
        self.project = opened.project
        self.ended: SessionEnded | None = None
        self.over: SessionOver | None = None
        self._lost = False
        self._finding = anyio.Lock()
        self._relay = relay
        self._epoch = opened.epoch
        self._seq = opened.seq
        self._on_question = on_question
        self._turns: dict[str, Prompted] = {}
        self._running = opened.turn_running or ""
        self._asked: set[str] = set()

    def prompt(self, content: str | Sequence[Json], *, turn: str = "") -> Turn:
        """Return what says something to the agent once somebody iterates over it.

        A prompt that comes while a turn runs waits for its end.

        :param content: text, or ACP's content blocks.
        :param turn: an id of your own, of 1 to 64 letters, digits, ``-`` and ``_``: the same one again begins no
            second turn.
        """
        return Turn(self, Prompted(turn or self._relay.new_id(), content))

    async def cancel(self) -> None:
        """Cancel the turn that runs, and take back our prompts that wait."""
        await self._relay.patiently(lambda client: client.cancel(self.id))

    async def set_mode(self, mode_id: str) -> None:
        """Switch the agent to one of its modes."""
        await self._relay.patiently(lambda client: client.set_mode(self.id, mode_id))

    async def close(self) -> None:
        """End the session, and return when everything of it is cleaned up.

        One whose agent could not be started again when the connection came back is ended, and not waited for.
        """
        if self.over is not None:
            return
        with self._relay.until_ended(self) as ended:
            try:
                await self._relay.patiently(lambda client: client.close_session(self.id))
            except AcpError as error:
                if error.code != GONE:
                    raise
            else:
                if not self._lost:
                    await ended.wait()
                    self._relay.check()

    async def begin(self, prompted: Prompted) -> None:
        """Send a prompt; where the connection is lost over it, it is sent again on the next. Called by its `Turn`."""
        await self._find_again()
        if self.over is not None:
            prompted.end(error=self.over)
            return
        self._turns[prompted.ref] = prompted
        try:
            await self._relay.once(
                lambda client: client.begin_prompt(self.id, prompted.content, turn=prompted.ref)
            )
        except Disconnected:
            pass
        except ClientError:
            self._turns.pop(prompted.ref, None)
            raise

    # ------------------------------------------------------------ called by the relay's connection

    async def follow_again(self, client: AcpClient) -> None:
        """Go on where we were, on another connection.

        :raises AcpError: there is no such session any more.
        """
        self._asked.clear()  # what is still open is asked again
        opened = await client.load_session(self.id, after=self._seq, epoch=self._epoch)
        self._lost = False
        self._epoch = opened.epoch
        for turn in list(self._turns.values()):
            await client.begin_prompt(self.id, turn.content, turn=turn.ref)

    async def hear(self, event: Event) -> None:
        """Take what comes of this session."""
        seq = getattr(event, "seq", 0)
        if isinstance(event, SessionOpened):
            self._epoch = event.epoch
        if seq > 0:
            self._seq = max(self._seq, seq) if not isinstance(event, SessionOpened) else seq
        match event:
            case Update() | Gap():
                await self._pass_on(event)
            case TurnStarted():
                self._running = event.turn
            case TurnEnded():
                self._turn_ended(event)
            case Question():
                self._ask(event)
            case SessionEnded():
                self.ended = event
                self.end(SessionOver(self.id, event.cause, event.reason))
            case _:
                pass

    def end(self, over: SessionOver) -> None:
        """Note that the session has ended."""
        self.over = over
        self.give_up(over)

    def end_unheard(self) -> None:
        """Note that it has ended while we heard nothing of it."""
        self.end(SessionOver(self.id, "", "it ended while the connection was lost"))

    def lose(self, error: AcpError) -> None:
        """Note that it could not be followed again: what runs ends with that, and the next prompt tries once more."""
        self._lost = True
        self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """End every turn with an error."""
        for turn in list(self._turns.values()):
            turn.end(error=error)
        self._turns.clear()

    async def _find_again(self) -> None:
        async with self._finding:
            if not self._lost or self.over is not None:
                return
            try:
                await self._relay.patiently(self.follow_again)
            except AcpError as error:
                if error.code != GONE:
                    raise
                self.end_unheard()

    async def _pass_on(self, event: Update | Gap) -> None:
        turn = self._turns.get(self._running)
        if turn is not None:  # else it is another client's
            await turn.hear(event)

    def _turn_ended(self, event: TurnEnded) -> None:
        if self._running == event.turn:
            self._running = ""
        turn = self._turns.pop(event.turn, None)
        if turn is not None:
            turn.end(event.stop_reason, event.error)

    def _ask(self, question: Question) -> None:
        if self._on_question is not None and question.id not in self._asked:
            self._asked.add(question.id)
            self._relay.start(self._answer, question, self._on_question)

    async def _answer(self, question: Question, on_question: OnQuestion) -> None:
        answer = await on_question(question)
        if answer is None:
            return
        result: Json = (
            {"outcome": {"outcome": "selected", "optionId": answer}} if isinstance(answer, str) else answer
        )
        if isinstance(answer, str) and question.method != PERMISSION:
            raise ClientError(
                f"{question.method!r} is no question of options: answer it with its whole result"
            )
        with suppress(Disconnected):  # if it is still open it comes again
            await self._relay.once(lambda client: client.respond(question, result))
