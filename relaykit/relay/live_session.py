"""LiveSession: the talk between a session's clients and its agent, from its start to its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentSpec
from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry
from relaykit.conversation.permissions import Question, Questions
from relaykit.errors import SessionNotActive, SessionNotFound, SpawnError, TurnQueueFull
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import ModeRequest, PromptRequest, TurnEnded, TurnStarted
from relaykit.meter import MESSAGES, Meter
from relaykit.relay.asking import Asking
from relaykit.relay.outbox import Outbox
from relaykit.relay.turns import Prompt, Turn, Turns
from relaykit.session.manager import Manager
from relaykit.session.model import Json, Session, SessionState
from relaykit.session.news import News
from relaykit.tasks import OwnedTasks

logger = logging.getLogger(__name__)

_MODE_CALLS = frozenset({"session/set_mode", "session/set_model", "session/set_config_option"})
"""The CALLs that can switch an agent to where it asks nobody any more: policies hear of them first."""


class LiveSession:
    """Relays between one agent and any number of clients.

    One turn runs at a time; prompts that come meanwhile wait in order. What the agent does not take at once
    goes out of a task of its own, so that an agent that does not read holds up no client.

    :param news: tells the plugins of turns and questions, outside the relaying.
    :param max_queued_prompts: how many prompts may wait.
    """

    def __init__(
        self,
        session: Session,
        spec: AgentSpec,
        conversation: Conversation,
        *,
        manager: Manager,
        dispatcher: Dispatcher,
        meter: Meter,
        clock: Clock,
        news: News,
        max_queued_prompts: int,
    ) -> None:
        self.id = session.id
        self.spec = spec
        self.conversation = conversation
        self.questions = Questions(session.id)
        self.spawn_error: SpawnError | None = None
        self.clients = 0
        self.ended = anyio.Event()
        self._manager = manager
        self._dispatcher = dispatcher
        self._meter = meter
        self._clock = clock
        self.news = news
        self._max_queued_prompts = max_queued_prompts
        self._agent: Agent | None = None
        self._turns = Turns()
        self._outbox: Outbox | None = None
        self._asking = Asking(
            conversation,
            self.questions,
            session=self._session,
            send=self._send,
            dispatcher=dispatcher,
            clock=clock,
            news=news,
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
    def turn(self) -> str:
        """The id of the turn that runs; empty if none does."""
        return self._turns.running.ref if self._turns.running is not None else ""

    @property
    def needs_login(self) -> bool:
        """The agent takes no prompts until a person logs it in."""
        return self._agent is not None and self._agent.needs_login

    # ------------------------------------------------------------ what clients ask for

    async def prompt(self, body: bytes, *, client_id: str, turn: str) -> Entry | None:
        """Begin a turn, or have the prompt wait for the running one.

        A turn that runs or waits already, or is one of the last that ended, is not begun again.

        :param body: raw JSON of the prompt's params, without a session id.
        :param turn: the id of the turn; it becomes the `ref` of its PROMPT and its TURN_END.
        :return: how the turn ended, if it has ended already (as `withdraw` says, if it was taken back).
        :raises SessionNotActive: the session takes no prompts now.
        :raises TurnQueueFull: too many wait already.
        :raises Refused: a policy said no.
        """
        if not self._turns.knows(turn):
            await self._admit(body, client_id)
        if self._turns.knows(turn):  # it may have been said again while the policies thought
            return self._turns.end_of(turn)
        waiting = self._turns.waiting
        idle = self._turns.running is None and self._outbox is not None
        if not idle and len(waiting) >= self._max_queued_prompts:
            raise TurnQueueFull(self.id, self._max_queued_prompts)
        prompt = Prompt(turn, body, client_id)
        waiting.append(prompt)
        try:
            await self._start_next()
        except BaseException:
            if prompt in waiting:  # it never began, and its client hears so
                waiting.remove(prompt)
            if waiting:  # those behind it have been promised their turn
                self.news.tell(self._start_next)
            raise
        return None

    async def _admit(self, body: bytes, client_id: str) -> None:
        session = await self._active_session()
        if self._dispatcher.listens_to("relaykit_check_prompt"):
            request = PromptRequest(session=session, client_id=client_id, body=body)
            await self._dispatcher.check_prompt(request)
            await self._active_session()  # it may have ended while the policies thought

    async def cancel(self) -> None:
        """Have the agent end the running turn; its open questions are answered ``cancelled``, as ACP demands.

        Without a running turn there is nothing to do. The turn ends when the agent says so.
        """
        turn = self._turns.running
        agent = self._agent
        if turn is None or turn.cancelled or agent is None:
            return
        turn.cancelled = True
        open_questions = self.questions.take_all()
        decisions = [agent.decline(question.request, cancelled=True) for question in open_questions]
        # The cancel goes first: an agent that hears the answers before it might end the turn as if all were well.
        frames = [Frame(Kind.CANCEL, method="session/cancel"), *decisions]
        self._asking.closing(open_questions, by="relay")
        try:
            await self.conversation.publish(frames)
        except BaseException:
            turn.cancelled = False  # it can be asked for again
            for question in open_questions:
                self.questions.put_back(question)
            raise
        for frame in frames:
            self._send(frame)
        for question, decision in zip(open_questions, decisions, strict=True):
            await self._asking.tell_answered(question, decision, by="relay", outcome="cancelled")

    def withdraw(self, turn: str) -> Entry | None:
        """Take back a prompt that still waits for its turn.

        :return: how its turn ended, for who waits for it: a TURN_END of seq 0, because it is not in the
            transcript. None if it does not wait (any more).
        """
        return self._turns.withdraw(turn, at=self._clock.now())

    async def call(self, method: str, body: bytes, *, client_id: str, ref: str) -> None:
        """Put a request to the agent that is no prompt. The RESULT in the transcript has the same `ref`.

        :param body: raw JSON of the params, without a session id.
        :param ref: a fresh id for the call.
        :raises SessionNotActive: the session has no agent now.
        :raises Refused: a policy said no to a change of mode.
        """
        session = await self._active_session()
        frame = Frame(Kind.CALL, body, ref, method)
        if method in _MODE_CALLS and self._dispatcher.listens_to("relaykit_check_mode"):
            await self._dispatcher.check_mode(ModeRequest(session=session, client_id=client_id, call=frame))
            session = await self._active_session()
        if self._outbox is None:
            raise SessionNotActive(self.id, session.state)
        await self.conversation.publish([frame])
        self._send(frame)

    async def cancel_call(self, ref: str) -> None:
        """Tell the agent that nobody needs the answer to a CALL any more. It answers all the same."""
        frame = Frame(Kind.CANCEL, ref=ref, method="$/cancel_request")
        await self.conversation.publish([frame])
        self._send(frame)

    async def answer(self, ref: str, body: bytes | None, *, client_id: str) -> None:
        """Answer an open question; the first answer wins.

        :param body: raw JSON of the result. None: there is none, and the agent hears that it was cancelled.
        :raises QuestionClosed: somebody was faster, or there is no such question.
        """
        question = self.questions.take(ref)
        agent = self._agent
        if body is None and agent is not None:
            decision, outcome = agent.decline(question.request, cancelled=True), "cancelled"
        else:
            decision = Frame(Kind.DECISION, body or b"", ref, question.request.method)
            outcome = "answered"
        await self._asking.decide(question, decision, by=client_id, outcome=outcome)

    def closed_by(self, ref: str) -> str:
        """Return who or what closed a question, as `QuestionAnswered.by`; empty if that is not known (any more)."""
        return self._asking.closed_by(ref)

    async def _active_session(self) -> Session:
        session = await self._manager.get(self.id)
        if session is None:
            raise SessionNotFound(self.id)
        if session.state is not SessionState.ACTIVE:
            raise SessionNotActive(self.id, session.state)
        return session

    # ------------------------------------------------------------ with the agent

    def introduce(self, agent: Agent) -> None:
        """Know the agent, before anybody hears that it takes prompts."""
        self._agent = agent

    async def converse(self, agent: Agent) -> None:
        """Relay until the agent is gone. It has been introduced."""
        async with OwnedTasks() as tasks:
            self._outbox = Outbox(agent, tasks, self._undeliverable)
            try:
                await self._start_next()
                while True:
                    try:
                        frames = await agent.receive()
                    except anyio.EndOfStream:
                        return
                    await self._hear(frames, agent, tasks)
            finally:
                self._outbox = None

    async def finish(self, reason: str) -> None:
        """Close in the transcript what is still open: questions are cancelled, the turn is interrupted."""
        frames: list[Frame] = []
        if self._agent is not None:
            frames += [
                self._agent.decline(each.request, cancelled=True) for each in self.questions.take_all()
            ]
        turn = self._turns.running
        if turn is not None:
            error = _error(-32603, f"interrupted: {reason}")
            frames.append(Frame(Kind.TURN_END, error, turn.ref, "session/prompt", failed=True))
        if frames:
            await self.conversation.publish(frames)
        if turn is not None:
            await self._tell_turn_ended(turn, "interrupted")
        self._turns.running = None
        self._turns.waiting.clear()
        self._agent = None

    async def _undeliverable(self, frame: Frame, why: str) -> None:
        """Answer for the agent what cannot be put to it: one client's mistake ends no session."""
        if frame.kind is Kind.PROMPT:
            end = Frame(Kind.TURN_END, _error(-32602, why), frame.ref, frame.method, failed=True)
            [entry] = await self.conversation.publish([end])
            await self._turn_over(entry)
        elif frame.kind is Kind.DECISION and self._agent is not None:
            request = Frame(Kind.REQUEST, ref=frame.ref, method=frame.method)
            self._send(self._agent.decline(request, cancelled=True))
        elif frame.kind is Kind.CALL:
            refusal = Frame(Kind.RESULT, _error(-32602, why), frame.ref, frame.method, failed=True)
            await self.conversation.publish([refusal])

    def _send(self, frame: Frame) -> None:
        self._meter.count(MESSAGES, direction="to_agent")
        if self._outbox is not None:
            self._outbox.send(frame)

    async def _hear(self, frames: Sequence[Frame], agent: Agent, tasks: TaskGroup) -> None:
        self._meter.count(MESSAGES, len(frames), direction="from_agent")
        await self._manager.increment_message_count(self.id, by=len(frames))
        update = Kind.UPDATE
        # Nearly all are updates that are about no question: a list is faster than a generator, and short.
        if all([frame.kind is update and not frame.ref for frame in frames]):  # noqa: C419 -- as said
            await self.conversation.publish(frames)
            return
        judged = self._dispatcher.listens_to("relaykit_check_permission")
        said: list[Frame] = []
        asked: dict[str, Question] = {}
        for frame in frames:
            if frame.kind is Kind.REQUEST:
                if judged:  # nobody sees it, or answers it, before
                    tasks.start_soon(partial(self._asking.judge, frame, agent, is_over=self._is_cancelled))
                    continue
                # Its answer may come at once.
                asked[frame.ref] = self.questions.ask(frame, at=self._clock.monotonic())
            said.append(frame)
        entries = await self.conversation.publish(said)
        for entry in entries:  # before anything is waited for
            if entry.frame.kind is Kind.REQUEST:
                asked[entry.frame.ref].seq = entry.seq
            elif entry.frame.kind is Kind.TURN_END:
                self._turns.remember(entry)
        for entry in entries:
            await self._act_on(entry, agent)

    async def _act_on(self, entry: Entry, agent: Agent) -> None:
        frame = entry.frame
        if frame.kind is Kind.REQUEST:
            await self._asking.asked(frame, agent, is_over=self._is_cancelled())
        elif frame.kind is Kind.TURN_END:
            await self._turn_over(entry)
        elif frame.kind is Kind.UPDATE and frame.ref and frame.method == "$/cancel_request":
            await self._asking.drop(frame.ref, agent, by="agent")

    # ------------------------------------------------------------ turns

    def _is_cancelled(self) -> bool:
        return self._turns.running is not None and self._turns.running.cancelled

    async def _start_turn(self, prompt: Prompt) -> None:
        frame = Frame(Kind.PROMPT, prompt.body, prompt.turn, "session/prompt")
        turn = Turn(prompt.turn, self._clock.monotonic())
        self._turns.running = turn  # at once: nobody else begins one
        try:
            await self.conversation.publish([frame])
        except BaseException:
            self._turns.running = None
            raise
        await self._manager.increment_message_count(self.id)
        self._send(frame)
        if self._dispatcher.listens_to("relaykit_on_turn_started"):
            started = TurnStarted(
                session=await self._session(), turn=turn.ref, client_id=prompt.client_id, at=self._clock.now()
            )
            self.news.tell(partial(self._dispatcher.turn_started, started))

    async def _turn_over(self, end: Entry) -> None:
        turn = self._turns.running
        if turn is None or turn.ref != end.frame.ref:
            return
        self._turns.remember(end)
        self._turns.running = None
        await self._tell_turn_ended(turn, "failed" if end.frame.failed else "done")
        await self._start_next()

    async def _start_next(self) -> None:
        """Begin the turn of the prompt that waits longest; if that fails it goes on waiting."""
        turns = self._turns
        if turns.running is not None or self._outbox is None or not turns.waiting:
            return
        prompt = turns.waiting.pop(0)
        try:
            await self._start_turn(prompt)
        except BaseException:
            turns.waiting.insert(0, prompt)
            raise

    async def _tell_turn_ended(self, turn: Turn, outcome: str) -> None:
        if self._dispatcher.listens_to("relaykit_on_turn_ended"):
            ended = TurnEnded(
                session=await self._session(),
                turn=turn.ref,
                outcome=outcome,
                seconds=self._clock.monotonic() - turn.started,
                at=self._clock.now(),
            )
            self.news.tell(partial(self._dispatcher.turn_ended, ended))

    async def _session(self) -> Session:
        session = await self._manager.get(self.id)
        if session is None:
            raise SessionNotFound(self.id)
        return session


def _error(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "message": message}).encode()
