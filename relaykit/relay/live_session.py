"""LiveSession: the talk between a session's clients and its agent, from its start to its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio
from anyio.abc import TaskGroup

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentSpec
from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.permissions import Question, Questions
from relaykit.errors import Refused, SessionNotActive, SessionNotFound, TurnQueueFull
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import (
    ModeRequest,
    PermissionRequest,
    PromptRequest,
    QuestionAnswered,
    QuestionAsked,
    TurnEnded,
    TurnStarted,
)
from relaykit.meter import MESSAGES, Meter
from relaykit.relay.outbox import Outbox
from relaykit.session.manager import Manager
from relaykit.session.model import Json, Session, SessionState
from relaykit.session.news import News
from relaykit.tasks import OwnedTasks

logger = logging.getLogger(__name__)

_MODE_CALLS = frozenset({"session/set_mode", "session/set_model", "session/set_config_option"})
"""The CALLs that can switch an agent to where it asks nobody any more: policies hear of them first."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    turn: str
    body: bytes
    client_id: str


@dataclass(slots=True)
class _Turn:
    ref: str
    started: float  # on the clock's monotonic seconds
    cancelled: bool = False


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
        self.clients = 0
        self.ended = anyio.Event()
        self._manager = manager
        self._dispatcher = dispatcher
        self._meter = meter
        self._clock = clock
        self.news = news
        self._max_queued_prompts = max_queued_prompts
        self._agent: Agent | None = None
        self._turn: _Turn | None = None
        self._outbox: Outbox | None = None
        self._waiting: list[_Prompt] = []  # it is short, and an empty deque takes 600 bytes

    @property
    def opened(self) -> Json:
        """What the agent says of the session, as it stands now; empty while there is no agent."""
        return self._agent.opened if self._agent is not None else {}

    @property
    def needs_login(self) -> bool:
        """The agent takes no prompts until a person logs it in."""
        return self._agent is not None and self._agent.needs_login

    # ------------------------------------------------------------ what clients ask for

    async def prompt(self, body: bytes, *, client_id: str, turn: str) -> None:
        """Begin a turn, or have the prompt wait for the running one.

        :param body: raw JSON of the prompt's params, without a session id.
        :param turn: a fresh id for the turn; it becomes the `ref` of its PROMPT and its TURN_END.
        :raises SessionNotActive: the session takes no prompts now.
        :raises TurnQueueFull: too many wait already.
        :raises Refused: a policy said no.
        """
        session = await self._active_session()
        if self._dispatcher.listens_to("relaykit_check_prompt"):
            request = PromptRequest(session=session, client_id=client_id, body=body)
            await self._dispatcher.check_prompt(request)
            await self._active_session()  # it may have ended while the policies thought
        idle = self._turn is None and self._agent is not None
        if not idle and len(self._waiting) >= self._max_queued_prompts:
            raise TurnQueueFull(self.id, self._max_queued_prompts)
        prompt = _Prompt(turn, body, client_id)
        self._waiting.append(prompt)
        try:
            await self._start_next()
        except BaseException:
            if prompt in self._waiting:  # it never began, and its client hears so
                self._waiting.remove(prompt)
            if self._waiting:  # those behind it have been promised their turn
                self.news.tell(self._start_next)
            raise

    async def cancel(self) -> None:
        """Have the agent end the running turn; its open questions are answered ``cancelled``, as ACP demands.

        Without a running turn there is nothing to do. The turn ends when the agent says so.
        """
        turn = self._turn
        agent = self._agent
        if turn is None or turn.cancelled or agent is None:
            return
        turn.cancelled = True
        open_questions = self.questions.take_all()
        decisions = [agent.decline(question.request, cancelled=True) for question in open_questions]
        # The cancel goes first: an agent that hears the answers before it might end the turn as if all were well.
        frames = [Frame(Kind.CANCEL, method="session/cancel"), *decisions]
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
            await self._tell_answered(question, decision, by="relay", outcome="cancelled")

    def withdraw(self, turn: str) -> bool:
        """Take back a prompt that still waits for its turn; return False if it does not wait (any more)."""
        waiting = [prompt for prompt in self._waiting if prompt.turn == turn]
        for prompt in waiting:
            self._waiting.remove(prompt)
        return bool(waiting)

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

    async def answer(self, ref: str, body: bytes, *, client_id: str) -> None:
        """Answer an open question; the first answer wins.

        :param body: raw JSON of the result.
        :raises QuestionClosed: somebody was faster, or there is no such question.
        """
        question = self.questions.take(ref)
        decision = Frame(Kind.DECISION, body, ref, question.request.method)
        await self._decide(question, decision, by=client_id, outcome="answered")

    async def _active_session(self) -> Session:
        session = await self._manager.get(self.id)
        if session is None:
            raise SessionNotFound(self.id)
        if session.state is not SessionState.ACTIVE:
            raise SessionNotActive(self.id, session.state)
        return session

    # ------------------------------------------------------------ with the agent

    async def converse(self, agent: Agent) -> None:
        """Relay until the agent is gone."""
        self._agent = agent
        async with OwnedTasks() as tasks:
            self._outbox = Outbox(agent, tasks, self._undeliverable)
            try:
                await self._start_next()
                while True:
                    frames = await agent.receive()
                    await self._hear(frames, agent, tasks)
            except anyio.EndOfStream:
                return
            finally:
                self._outbox = None

    async def finish(self, reason: str) -> None:
        """Close in the transcript what is still open: questions are cancelled, the turn is interrupted."""
        frames: list[Frame] = []
        if self._agent is not None:
            frames += [
                self._agent.decline(each.request, cancelled=True) for each in self.questions.take_all()
            ]
        if self._turn is not None:
            error = _error(-32603, f"interrupted: {reason}")
            frames.append(Frame(Kind.TURN_END, error, self._turn.ref, "session/prompt", failed=True))
        if frames:
            await self.conversation.publish(frames)
        if self._turn is not None:
            await self._tell_turn_ended(self._turn, "interrupted")
        self._turn = None
        self._agent = None
        self._waiting.clear()

    async def _undeliverable(self, frame: Frame, why: str) -> None:
        """Answer for the agent what cannot be put to it: one client's mistake ends no session."""
        if frame.kind is Kind.PROMPT:
            end = Frame(Kind.TURN_END, _error(-32602, why), frame.ref, frame.method, failed=True)
            await self.conversation.publish([end])
            await self._turn_over(end)
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
        if all([frame.kind is update for frame in frames]):  # noqa: C419 -- a list is faster, and short
            await self.conversation.publish(frames)
            return
        said: list[Frame] = []
        for frame in frames:
            if frame.kind is Kind.REQUEST:
                if self._dispatcher.listens_to("relaykit_check_permission"):
                    tasks.start_soon(self._judge, frame, agent)  # nobody sees it, or answers it, before
                    continue
                self.questions.ask(frame, at=self._clock.monotonic())  # its answer may come at once
            said.append(frame)
        if said:
            await self.conversation.publish(said)
        for frame in said:
            if frame.kind is Kind.REQUEST:
                await self._asked(frame, agent)
            elif frame.kind is Kind.TURN_END:
                await self._turn_over(frame)

    # ------------------------------------------------------------ turns

    async def _start_turn(self, prompt: _Prompt) -> None:
        frame = Frame(Kind.PROMPT, prompt.body, prompt.turn, "session/prompt")
        turn = self._turn = _Turn(prompt.turn, self._clock.monotonic())  # at once: nobody else begins one
        try:
            await self.conversation.publish([frame])
        except BaseException:
            self._turn = None
            raise
        await self._manager.increment_message_count(self.id)
        self._send(frame)
        if self._dispatcher.listens_to("relaykit_on_turn_started"):
            started = TurnStarted(
                session=await self._session(), turn=turn.ref, client_id=prompt.client_id, at=self._clock.now()
            )
            self.news.tell(partial(self._dispatcher.turn_started, started))

    async def _turn_over(self, end: Frame) -> None:
        turn = self._turn
        if turn is None or turn.ref != end.ref:
            return
        self._turn = None
        await self._tell_turn_ended(turn, "failed" if end.failed else "done")
        await self._start_next()

    async def _start_next(self) -> None:
        """Begin the turn of the prompt that waits longest; if that fails it goes on waiting."""
        if self._turn is not None or self._agent is None or not self._waiting:
            return
        prompt = self._waiting.pop(0)
        try:
            await self._start_turn(prompt)
        except BaseException:
            self._waiting.insert(0, prompt)
            raise

    async def _tell_turn_ended(self, turn: _Turn, outcome: str) -> None:
        if self._dispatcher.listens_to("relaykit_on_turn_ended"):
            ended = TurnEnded(
                session=await self._session(),
                turn=turn.ref,
                outcome=outcome,
                seconds=self._clock.monotonic() - turn.started,
                at=self._clock.now(),
            )
            self.news.tell(partial(self._dispatcher.turn_ended, ended))

    # ------------------------------------------------------------ questions

    async def _judge(self, request: Frame, agent: Agent) -> None:
        """Ask the policies first; only what they let pass is put to people."""
        question = Question(request, self._clock.monotonic())
        try:
            await self._dispatcher.check_permission(
                PermissionRequest(session=await self._session(), request=request)
            )
        except Refused as refusal:
            await self.conversation.publish([request])
            decision = agent.decline(request, cancelled=False)
            await self._decide(question, decision, by=refusal.plugin, outcome="refused")
            return
        self.questions.ask(request, at=question.asked)
        await self.conversation.publish([request])
        await self._asked(request, agent)

    async def _asked(self, request: Frame, agent: Agent) -> None:
        if self._dispatcher.listens_to("relaykit_on_question_asked"):
            asked = QuestionAsked(session=await self._session(), request=request, at=self._clock.now())
            self.news.tell(partial(self._dispatcher.question_asked, asked))
        if self._turn is not None and self._turn.cancelled:  # the agent asked before it heard of the cancel
            question = self.questions.discard(request.ref)
            if question is not None:
                decision = agent.decline(request, cancelled=True)
                await self._decide(question, decision, by="relay", outcome="cancelled")

    async def _decide(self, question: Question, decision: Frame, *, by: str, outcome: str) -> None:
        try:
            await self.conversation.publish([decision])
        except BaseException:
            self.questions.put_back(question)  # it is unanswered still
            raise
        self._send(decision)
        await self._tell_answered(question, decision, by=by, outcome=outcome)

    async def _tell_answered(self, question: Question, decision: Frame, *, by: str, outcome: str) -> None:
        if self._dispatcher.listens_to("relaykit_on_question_answered"):
            answered = QuestionAnswered(
                session=await self._session(),
                request=question.request,
                decision=decision,
                by=by,
                outcome=outcome,
                seconds=self._clock.monotonic() - question.asked,
                at=self._clock.now(),
            )
            self.news.tell(partial(self._dispatcher.question_answered, answered))

    async def _session(self) -> Session:
        session = await self._manager.get(self.id)
        if session is None:
            raise SessionNotFound(self.id)
        return session


def _error(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "message": message}).encode()
