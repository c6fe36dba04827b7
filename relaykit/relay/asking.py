"""Asking: the agent's questions, on their way to people, and the answers, on their way back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from relaykit.agent.agent import Agent
from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame
from relaykit.conversation.permissions import Question, Questions
from relaykit.errors import Refused
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import PermissionRequest, QuestionAnswered, QuestionAsked
from relaykit.session.model import Session
from relaykit.session.news import News

_REMEMBERED = 64
"""Of how many questions it is known who closed them."""


class Asking:
    """Opens questions, and closes each once: with what somebody answers, or with the agent's own way of no.

    :param session: returns the session as it is now.
    :param send: gives a frame to the agent.
    :param news: tells the plugins, outside the relaying.
    """

    def __init__(
        self,
        conversation: Conversation,
        questions: Questions,
        *,
        session: Callable[[], Awaitable[Session]],
        send: Callable[[Frame], None],
        dispatcher: Dispatcher,
        clock: Clock,
        news: News,
    ) -> None:
        self._conversation = conversation
        self._questions = questions
        self._session = session
        self._send = send
        self._dispatcher = dispatcher
        self._clock = clock
        self._news = news
        self._closers: dict[str, str] = {}

    def closed_by(self, ref: str) -> str:
        """Return who or what closed a question: a client's id, a plugin's name, ``agent`` or ``relay``.

        Empty if it is open, or was closed long ago.
        """
        return self._closers.get(ref, "")

    async def judge(self, request: Frame, agent: Agent, *, is_over: Callable[[], bool]) -> None:
        """Ask the policies first; only what they let pass is put to people.

        :param is_over: tells whether the turn that the question belongs to has been cancelled.
        """
        question = Question(request, self._clock.monotonic())
        try:
            await self._dispatcher.check_permission(
                PermissionRequest(session=await self._session(), request=request)
            )
        except Refused as refusal:
            [entry] = await self._conversation.publish([request])
            question.seq = entry.seq
            decision = agent.decline(request, cancelled=False)
            await self.decide(question, decision, by=refusal.plugin, outcome="refused")
            return
        question = self._questions.ask(request, at=question.asked)
        [entry] = await self._conversation.publish([request])
        question.seq = entry.seq
        await self.asked(request, agent, is_over=is_over())

    async def asked(self, request: Frame, agent: Agent, *, is_over: bool) -> None:
        """Tell of a question that was put to people; if its turn is over already, it is closed at once."""
        if self._dispatcher.listens_to("relaykit_on_question_asked"):
            asked = QuestionAsked(session=await self._session(), request=request, at=self._clock.now())
            self._news.tell(partial(self._dispatcher.question_asked, asked))
        if is_over:  # the agent asked before it heard of the cancel
            await self.drop(request.ref, agent, by="relay")

    async def drop(self, ref: str, agent: Agent, *, by: str) -> None:
        """Close a question as cancelled, if it is open."""
        question = self._questions.discard(ref)
        if question is not None:
            decision = agent.decline(question.request, cancelled=True)
            await self.decide(question, decision, by=by, outcome="cancelled")

    async def decide(self, question: Question, decision: Frame, *, by: str, outcome: str) -> None:
        """Answer a question that was taken out; if that cannot be recorded it is open again."""
        self.closing([question], by=by)
        try:
            await self._conversation.publish([decision])
        except BaseException:
            self._questions.put_back(question)
            raise
        self._send(decision)
        await self.tell_answered(question, decision, by=by, outcome=outcome)

    def closing(self, questions: Sequence[Question], *, by: str) -> None:
        """Remember who closes these questions."""
        for question in questions:
            self._closers[question.request.ref] = by
        while len(self._closers) > _REMEMBERED:
            del self._closers[next(iter(self._closers))]

    async def tell_answered(self, question: Question, decision: Frame, *, by: str, outcome: str) -> None:
        """Tell the plugins that a question was answered."""
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
            self._news.tell(partial(self._dispatcher.question_answered, answered))
