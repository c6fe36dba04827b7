"""LiveSession: the talk between a session's clients and its agent, from its start to its end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentLauncher, AgentSpec
from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry
from relaykit.conversation.permissions import Question, Questions
from relaykit.errors import AgentError, Leaked, SessionNotActive, SpawnError
from relaykit.hooks.dispatch import Dispatcher
from relaykit.meter import Meter
from relaykit.relay.admission import Admission
from relaykit.relay.asking import Asking
from relaykit.relay.calls import Calls
from relaykit.relay.judging import Judging
from relaykit.relay.life import alive_since
from relaykit.relay.notices import AGENT_CRASHED, ASLEEP, WAKE_FAILED, notice
from relaykit.relay.outbox import Outbox
from relaykit.relay.past import look_back
from relaykit.relay.read_ahead import ReadAhead, listen
from relaykit.relay.rest import Presence, Rest
from relaykit.relay.telling import Telling
from relaykit.relay.traffic import Traffic
from relaykit.relay.turn_queue import INVALID_PARAMS, ToItsEnd, TurnQueue, error, here
from relaykit.relay.turns import Prompt, Turn
from relaykit.session.manager import Manager
from relaykit.session.model import Json, Session, SessionState
from relaykit.session.news import News
from relaykit.settings import Settings
from relaykit.tasks import LazyEvent, OwnedTasks

logger = logging.getLogger(__name__)

_STRAGGLERS = 1.0
"""Seconds for what an agent that was stopped has still said."""


class LiveSession:
    """Relays between one agent and any number of clients.

    One turn runs at a time; prompts that come meanwhile wait in order, or are refused. What the agent does not
    take at once goes out of a task of its own, so that an agent that does not read holds up no client. While the
    agent sleeps, prompts wait for it, and have it started.

    :param launcher: of the session's agent.
    :param news: tells the plugins of turns and questions, outside the relaying.
    :param in_own_task: how something is done to its end, with a storage that waits for something itself.
    """

    def __init__(
        self,
        session: Session,
        spec: AgentSpec,
        conversation: Conversation,
        *,
        launcher: AgentLauncher,
        manager: Manager,
        dispatcher: Dispatcher,
        meter: Meter,
        clock: Clock,
        news: News,
        in_own_task: ToItsEnd | None,
        settings: Settings,
    ) -> None:
        self.id = session.id
        self.spec = spec
        self.conversation = conversation
        self.questions = Questions(session.id)
        self.spawn_error: SpawnError | None = None
        self.owner = session.owner
        self.since = alive_since(session)
        self.clients = 0
        self.last_used = clock.monotonic()  # when there was last a client, a turn or a message
        self.left = self.last_used  # when the last client left, or the last turn ended without one
        self.doomed = ""  # why a session that an earlier relay has left is ended at once
        self.leaving = False  # the relay ends, and the session does not: it sleeps until the next one
        self.inherited = conversation.head  # the newest entry that was there before this life of the session
        self.ended = LazyEvent()
        self.rest = Rest(asleep=session.state is SessionState.ACTIVE)
        self.news = news
        self._manager = manager
        self._traffic = Traffic(meter)
        self._clock = clock
        self._storage_waits = in_own_task is not None
        self._to_its_end = in_own_task or here
        self._agent: Agent | None = None
        self._when_proved: Callable[[], Awaitable[None]] | None = None
        self._outbox: Outbox | None = None
        self._reading = anyio.CancelScope()
        self.admission = Admission(session, manager, dispatcher)
        self.telling = Telling(
            self.admission.session, dispatcher=dispatcher, meter=meter, clock=clock, news=news
        )
        self._asking = Asking(
            conversation,
            self.questions,
            launcher=launcher,
            judging=Judging(settings.permissions, launcher=launcher, dispatcher=dispatcher),
            session=self.admission.session,
            send=self._send,
            clock=clock,
            telling=self.telling,
        )
        self._queue = TurnQueue(
            session.id,
            conversation,
            manager=manager,
            clock=clock,
            telling=self.telling,
            news=news,
            send=self._send,
            to_its_end=self._to_its_end,
            settings=settings.relay,
        )
        self.calls = Calls(
            session.id,
            conversation,
            admission=self.admission,
            rest=self.rest,
            has_agent=lambda: self._outbox is not None,
            send=self._send,
            to_its_end=self._to_its_end,
            telling=self.telling,
        )

    @property
    def opened(self) -> Json:
        """What the agent says of the session, as it stands now; empty while there is no agent."""
        return self._agent.opened if self._agent is not None else {}

    @property
    def ready(self) -> bool:
        """There is an agent: `opened` is what it says."""
        return self._agent is not None

    @property
    def queue(self) -> TurnQueue:
        """The turn that runs and the prompts that wait, to look at."""
        return self._queue

    @property
    def turn(self) -> str:
        """The id of the turn that runs; empty if none does."""
        return self._queue.running.ref if self._queue.running is not None else ""

    @property
    def busy(self) -> bool:
        """A turn runs or waits, or a question waits for its answer."""
        return self.occupied or bool(self._queue.turns.waiting)

    @property
    def occupied(self) -> bool:
        """A turn runs, or a question waits for its answer."""
        return self._queue.running is not None or self._asking.is_open

    @property
    def needs_login(self) -> bool:
        """The agent takes no prompts until a person logs it in."""
        return self._agent is not None and self._agent.needs_login

    # ------------------------------------------------------------ what clients ask for

    async def prompt(self, body: bytes, *, client_id: str, turn: str, by: str = "") -> Entry | None:
        """Begin a turn, or have the prompt wait for the running one.

        A turn that runs or waits already, or is one of the last that ended, is not begun again.

        :param body: raw JSON of the prompt's params, without a session id.
        :param turn: the id of the turn; it becomes the `ref` of its PROMPT and its TURN_END.
        :return: how the turn ended, if it has ended already (as `withdraw` says, if it was taken back).
        :raises SessionNotActive: the session takes no prompts now.
        :raises TurnQueueFull: too many wait already.
        :raises Refused: a policy said no.
        """
        turns = self._queue.turns
        if not turns.knows(turn):
            await self.admission.prompt(body, client_id)
        if turns.knows(turn):  # it may have been said again while the policies thought
            return turns.end_of(turn)
        await self._queue.add(Prompt(turn, body, client_id, by or client_id))
        self.rest.want()
        return None

    async def cancel(self) -> None:
        """Have the agent end the running turn; its open questions are answered ``cancelled``, as ACP demands.

        Without a running turn there is nothing to do. The turn ends when the agent says so.
        """
        turn = self._queue.running
        if turn is None or turn.cancelled or self._agent is None:
            return
        await self._to_its_end(partial(self._cancel, turn))

    async def _cancel(self, turn: Turn) -> None:
        turn.cancelled = True
        try:
            await self._asking.cancel_all(Frame(Kind.CANCEL, method="session/cancel"))
        except BaseException:
            turn.cancelled = False  # it can be asked for again
            raise

    def withdraw(self, turn: str) -> Entry | None:
        """Take back a prompt that still waits for its turn.

        :return: how its turn ended, for who waits for it: a TURN_END of seq 0, because it is not in the
            transcript. None if it does not wait (any more).
        """
        return self._queue.withdraw(turn)

    async def answer(self, ref: str, body: bytes | None, *, client_id: str, by: str = "") -> None:
        """Answer an open question; the first answer wins.

        :param by: see `Relay.answer`.
        :param body: raw JSON of the result. None: there is none, and the agent hears that it was cancelled.
        :raises QuestionClosed: somebody was faster, or there is no such question.
        """
        question = self.questions.take(ref)
        await self._to_its_end(
            partial(self._asking.answer, question, body, by=by or client_id, client_id=client_id)
        )

    @property
    def asking(self) -> Asking:
        """The questions that wait, and who or what closed others."""
        return self._asking

    # ------------------------------------------------------------ with the agent

    def introduce(self, agent: Agent, *, when_proved: Callable[[], Awaitable[None]] | None = None) -> None:
        """Know the agent, before anybody hears that it takes prompts.

        :param when_proved: called once the agent has ended a turn.
        """
        self._agent = agent
        self._when_proved = when_proved

    async def converse(self, agent: Agent) -> None:
        """Relay until the agent is gone, by itself or to sleep. It has been introduced.

        :raises AgentError: as `Agent.receive`; also where it left something open on the event loop.
        """
        try:
            await self._converse(agent)
        except Leaked as error:
            raise AgentError(f"its launcher {self.spec.launcher!r}: {error}", agent=self.spec.name) from error

    async def _converse(self, agent: Agent) -> None:
        async with OwnedTasks() as tasks:
            self._outbox = Outbox(agent, tasks, self._undeliverable)
            self._queue.has_agent = True
            source = ReadAhead(agent, tasks) if self._storage_waits else agent
            self.rest.move(Presence.AWAKE)  # not before: who waits for the agent speaks to it at once
            try:
                with anyio.CancelScope() as self._reading:
                    await self._queue.start_next()
                    await listen(source, partial(self._hear, tasks=tasks))
            finally:
                self._queue.has_agent = False
                self._outbox = None

    async def recall(self) -> None:
        """Take up what an earlier relay has left open in the transcript, and close it there."""
        past = await look_back(self.conversation)
        self._queue.recall(past)
        for entry in past.questions:
            self._asking.ask(entry.frame).seq = entry.seq
        await self.interrupt("the relay was restarted")

    async def finish(self, reason: str) -> None:
        """Close in the transcript what is still open, and take nothing any more."""
        self.rest.end(SessionNotActive(self.id, SessionState.TERMINATING))
        await self.interrupt(reason)
        self._queue.clear()
        self._agent = None

    async def interrupt(self, reason: str) -> None:
        """Close in the transcript what is still open: questions are cancelled, the turn is interrupted."""
        # What was still judged nobody has seen, and nobody is there any more who wants an answer.
        closed = [each for each in self._asking.take_all() if not each.judged]
        frames = [frame for each in closed for frame in each.frames]
        ends = self._queue.interruption(reason)
        entries = await self.conversation.publish([*frames, *ends])
        await self._asking.tell(closed)
        if ends:
            await self._queue.interrupted(entries[-1])

    # ------------------------------------------------------------ asleep

    @property
    def is_falling_asleep(self) -> bool:
        """Its agent is being stopped, the session is not."""
        return self.rest.presence is Presence.DROWSY

    async def fall_asleep(self, reason: str) -> None:
        """Stop the agent and keep the session, if its agent is awake. Returns once it sleeps, or is being ended.

        What the agent has said is recorded; a turn that runs is interrupted.
        """
        if self.rest.presence is Presence.AWAKE:  # what comes from now on waits for the next
            self._queue.has_agent = False
        await self.rest.stop_agent(reason, partial(self._manager.detach_agent, self.id), self._read_the_rest)

    def _read_the_rest(self) -> None:
        self._reading.deadline = anyio.current_time() + _STRAGGLERS

    async def lie_down(self) -> None:
        """Say that the agent, which has been stopped or has ended by itself, with all that it has started, sleeps."""
        await self.rest.until_stopped()
        self._agent = None
        await self.interrupt(self.rest.reason)
        word = AGENT_CRASHED if self.rest.crashed else ASLEEP
        await self.conversation.publish([notice(word, reason=self.rest.reason)])
        await self.telling.asleep(self.rest.reason, crashed=self.rest.crashed)
        self.conversation.drop_tail()
        self.rest.move(Presence.ASLEEP)
        if self._queue.turns.waiting or (self.rest.crashed and self.clients):
            self.rest.want()

    async def could_not_wake(self, failure: Exception) -> None:
        """Tell who has asked for the agent that it could not be started again. It sleeps on."""
        await self._queue.fail_waiting(f"the agent could not be started again: {failure}")
        self.rest.failed(failure)  # at once: who comes while this is recorded has the agent started anew
        await self.conversation.publish([notice(WAKE_FAILED, reason=str(failure))])

    async def _undeliverable(self, frame: Frame, why: str) -> None:
        """Answer for the agent what cannot be put to it: one client's mistake ends no session."""
        if frame.kind is Kind.PROMPT:
            end = Frame(Kind.TURN_END, error(INVALID_PARAMS, why), frame.ref, frame.method, failed=True)
            [entry] = await self.conversation.publish([end])
            await self._queue.over(entry)
        elif frame.kind is Kind.DECISION:
            await self._asking.undelivered(frame, why)
        elif frame.kind is Kind.CALL:
            refusal = Frame(Kind.RESULT, error(INVALID_PARAMS, why), frame.ref, frame.method, failed=True)
            await self.conversation.publish([refusal])

    def _send(self, frame: Frame) -> None:
        if self._outbox is not None:
            self._traffic.sent(frame)
            self._outbox.send(frame)

    async def _hear(self, frames: Sequence[Frame], tasks: TaskGroup) -> None:
        self.last_used = self._clock.monotonic()
        self._traffic.heard(frames, self._queue.running, at=self.last_used)
        await self._manager.increment_message_count(self.id, by=len(frames))
        update = Kind.UPDATE
        # Nearly all are updates that are about no question: a list is faster than a generator, and short.
        if all([frame.kind is update and not frame.ref for frame in frames]):  # noqa: C419 -- as said
            await self.conversation.publish(frames)
            return
        if self.is_falling_asleep:  # a turn that ends because we stop its agent is interrupted
            frames = [frame for frame in frames if not (frame.kind is Kind.TURN_END and frame.failed)]
        judges = self._asking.judges
        said: list[Frame] = []
        asked: dict[str, Question] = {}
        for frame in frames:
            if frame.kind is Kind.REQUEST:
                if judges:  # nobody sees it, or answers it, before
                    judge = partial(self._asking.judge, is_over=lambda: self._queue.is_cancelled)
                    tasks.start_soon(judge, self._asking.hold(frame))
                    continue
                asked[frame.ref] = self._asking.ask(frame)
            said.append(frame)
        entries = await self.conversation.publish(said)
        for entry in entries:  # before anything is waited for
            if entry.frame.kind is Kind.REQUEST:
                asked[entry.frame.ref].seq = entry.seq
            elif entry.frame.kind is Kind.TURN_END:
                self._queue.turns.remember(entry)
        for entry in entries:
            await self._act_on(entry)

    async def _act_on(self, entry: Entry) -> None:
        frame = entry.frame
        if frame.kind is Kind.REQUEST:
            await self._asking.asked(frame, is_over=self._queue.is_cancelled)
        elif frame.kind is Kind.TURN_END:
            self.last_used = self.left = self._clock.monotonic()
            if self._when_proved is not None:
                self.news.tell(self._when_proved)
                self._when_proved = None
            await self._queue.over(entry)
        elif frame.kind is Kind.UPDATE and frame.ref and frame.method == "$/cancel_request":
            await self._asking.take_back(frame.ref)
