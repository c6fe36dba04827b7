"""TurnQueue: prompts wait in order, and one turn runs at a time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry
from relaykit.errors import TurnQueueFull
from relaykit.relay.past import Past
from relaykit.relay.telling import Telling
from relaykit.relay.turns import Prompt, Turn, Turns
from relaykit.session.manager import Manager
from relaykit.session.news import News
from relaykit.settings import RelaySettings

INVALID_PARAMS, INTERNAL_ERROR = -32602, -32603

ToItsEnd = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Does something to its end, whatever becomes of who waits for it."""


class TurnQueue:
    """Begins the turns of one session, and knows how they end.

    :param send: gives a frame to the agent.
    :param to_its_end: what is recorded is also sent: a caller that is cut off between the two would lose it.
    :param news: where turns are begun whose prompts' clients are not here to wait.
    :param settings: how many prompts may wait.
    """

    def __init__(
        self,
        session_id: str,
        conversation: Conversation,
        *,
        manager: Manager,
        clock: Clock,
        telling: Telling,
        news: News,
        send: Callable[[Frame], None],
        to_its_end: ToItsEnd,
        settings: RelaySettings,
    ) -> None:
        self.turns = Turns()
        self.has_agent = False
        """There is an agent to which a prompt could go now."""
        self.is_closed = False
        """No turn begins any more."""
        self.version = 0
        """How often it was another whom who follows was told: which prompts wait."""
        self._session_id = session_id
        self._conversation = conversation
        self._manager = manager
        self._clock = clock
        self._telling = telling
        self._news = news
        self._send = send
        self._to_its_end = to_its_end
        self._max_waiting = 0 if settings.when_busy == "refuse" else settings.max_queued_prompts
        self._told: Sequence[Prompt] = ()

    @property
    def running(self) -> Turn | None:
        """The turn that runs."""
        return self.turns.running

    @property
    def is_cancelled(self) -> bool:
        """A turn runs, and somebody has cancelled it."""
        return self.turns.running is not None and self.turns.running.cancelled

    async def add(self, prompt: Prompt) -> None:
        """Begin the prompt's turn, or have it wait.

        :raises TurnQueueFull: too many wait already.
        """
        waiting = self.turns.waiting
        is_next = self.turns.running is None and not waiting  # it waits for nothing, or for the agent alone
        if not (is_next or self._begins) and len(waiting) >= self._max_waiting:
            raise TurnQueueFull(self._session_id, self._max_waiting)
        waiting.append(prompt)
        if self._begins:
            await self._to_its_end(partial(self._start_added, prompt))
        self.tell()

    @property
    def _begins(self) -> bool:
        """The next prompt can begin its turn now."""
        return self.turns.running is None and self.has_agent and not self.is_closed

    def withdraw(self, ref: str) -> Entry | None:
        """Take back a prompt that waits; see `Turns.withdraw`."""
        end = self.turns.withdraw(ref, at=self._clock.now())
        self.tell()
        return end

    def clear(self) -> None:
        """Forget the prompts that wait."""
        self.turns.waiting.clear()
        self.tell()

    def tell(self) -> None:
        """Tell who follows which prompts wait, if these are others than they were told.

        Nothing of that is in the transcript: who follows looks, and one who is slow misses what is over.
        """
        waiting = tuple(self.turns.waiting)
        if waiting != self._told:
            self._told = waiting
            self.version += 1
            self._conversation.nudge()

    async def _start_added(self, prompt: Prompt) -> None:
        waiting = self.turns.waiting
        try:
            await self.start_next()
        except BaseException:
            if prompt in waiting:  # it never began, and its client hears so
                waiting.remove(prompt)
            if waiting:  # those behind it have been promised their turn
                self._news.tell(self.start_next)
            raise

    async def start_next(self) -> None:
        """Begin the turn of the prompt that waits longest, if none runs; if that fails it goes on waiting."""
        waiting = self.turns.waiting
        if not self._begins or not waiting:
            return
        prompt = waiting.pop(0)
        try:
            await self._start(prompt)
        except BaseException:
            waiting.insert(0, prompt)
            raise
        self.tell()

    async def _start(self, prompt: Prompt) -> None:
        frame = Frame(Kind.PROMPT, prompt.body, prompt.turn, "session/prompt")
        turn = Turn(prompt.turn, self._clock.monotonic())
        self.turns.running = turn  # at once: nobody else begins one
        try:
            await self._conversation.publish([frame])
        except BaseException:
            self.turns.running = None
            raise
        await self._manager.increment_message_count(self._session_id)
        self._send(frame)
        await self._telling.turn_started(turn, client_id=prompt.client_id, by=prompt.by)

    def recall(self, past: Past) -> None:
        """Know what an earlier relay has left."""
        for end in past.ends:
            self.turns.remember(end)
        if past.turn:
            self.turns.running = Turn(past.turn, self._clock.monotonic())

    async def over(self, end: Entry) -> bool:
        """Take note of a TURN_END, and begin the next turn; False if it ends no turn that runs."""
        turn = self.turns.running
        if turn is None or turn.ref != end.frame.ref:
            return False
        self.turns.remember(end)
        self.turns.running = None
        await self._telling.turn_ended(turn, "failed" if end.frame.failed else "done")
        await self.start_next()
        return True

    def interruption(self, reason: str) -> list[Frame]:
        """Return what ends the running turn in the transcript, if there is one."""
        turn = self.turns.running
        return [] if turn is None else [_failure(turn.ref, f"interrupted: {reason}")]

    async def interrupted(self, end: Entry) -> None:
        """Take note that the running turn was ended so. No other begins."""
        turn = self.turns.running
        self.turns.running = None
        self.turns.remember(end)
        if turn is not None:
            await self._telling.turn_ended(turn, "interrupted")

    async def fail_waiting(self, why: str) -> None:
        """Record the prompts that wait, and that they could not be answered."""
        waiting = self.turns.waiting
        while waiting:
            prompt = waiting[0]
            asked = Frame(Kind.PROMPT, prompt.body, prompt.turn, "session/prompt")
            entries = await self._conversation.publish([asked, _failure(prompt.turn, why)])
            self.turns.remember(entries[-1])
            if prompt in waiting:  # else it was taken back meanwhile
                waiting.remove(prompt)
        self.tell()


async def here(do: Callable[[], Awaitable[None]]) -> None:
    """Do it at once: with a storage that never waits nothing is cut off."""
    await do()


def error(code: int, message: str) -> bytes:
    """Return a JSON-RPC error object."""
    return json.dumps({"code": code, "message": message}).encode()


def _failure(turn: str, why: str) -> Frame:
    return Frame(Kind.TURN_END, error(INTERNAL_ERROR, why), turn, "session/prompt", failed=True)
