"""Asking: the agent's questions, on their way to people, and the answers, on their way back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from relaykit.agent.launcher import AgentLauncher
from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.permissions import Question, Questions
from relaykit.errors import Refused
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import PermissionRequest
from relaykit.relay.telling import Telling
from relaykit.session.model import Session

_REMEMBERED = 64
"""Of how many questions it is known who closed them."""


class Asking:
    """Opens questions, and closes each once: with what somebody answers, or with the agent's own way of no.

    :param launcher: of the session's agent; it knows how to say no to it.
    :param session: returns the session as it is now.
    :param send: gives a frame to the agent.
    """

    def __init__(
        self,
        conversation: Conversation,
        questions: Questions,
        *,
        launcher: AgentLauncher,
        session: Callable[[], Awaitable[Session]],
        send: Callable[[Frame], None],
        dispatcher: Dispatcher,
        clock: Clock,
        telling: Telling,
    ) -> None:
        self._conversation = conversation
        self._questions = questions
        self._launcher = launcher
        self._session = session
        self._send = send
        self._dispatcher = dispatcher
        self._clock = clock
        self._telling = telling
        self._closers: dict[str, str] = {}

    def closed_by(self, ref: str) -> str:
        """Return who or what closed a question: a client's id, a plugin's name, ``agent`` or ``relay``.

        Empty if it is open, or was closed long ago.
        """
        return self._closers.get(ref, "")

    async def judge(self, request: Frame, *, is_over: Callable[[], bool]) -> None:
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
            decision = self._launcher.decline(request, cancelled=False)
            await self.decide(question, decision, by=refusal.plugin, outcome="refused")
            return
        question = self._questions.ask(request, at=question.asked)
        [entry] = await self._conversation.publish([request])
        question.seq = entry.seq
        await self.asked(request, is_over=is_over())

    async def asked(self, request: Frame, *, is_over: bool) -> None:
        """Tell of a question that was put to people; if its turn is over already, it is closed at once."""
        await self._telling.question_asked(request)
        if is_over:  # the agent asked before it heard of the cancel
            await self.drop(request.ref, by="relay")

    async def drop(self, ref: str, *, by: str) -> None:
        """Close a question as cancelled, if it is open."""
        question = self._questions.discard(ref)
        if question is not None:
            await self.decide(question, self.cancelled(question), by=by, outcome="cancelled")

    async def answer(self, question: Question, body: bytes | None, *, by: str) -> None:
        """Close a question that was taken out with somebody's answer; None: as cancelled."""
        if body is None:
            await self.decide(question, self.cancelled(question), by=by, outcome="cancelled")
        else:
            decision = Frame(Kind.DECISION, body, question.request.ref, question.request.method)
            await self.decide(question, decision, by=by, outcome="answered")

    def cancelled(self, question: Question) -> Frame:
        """Return the DECISION that a question's turn was cancelled, or is over."""
        return self._launcher.decline(question.request, cancelled=True)

    async def decide(self, question: Question, decision: Frame, *, by: str, outcome: str) -> None:
        """Answer a question that was taken out; if that cannot be recorded it is open again."""
        self.closing([question], by=by)
        try:
            await self._conversation.publish([decision])
        except BaseException:
            self._questions.put_back(question)
            raise
        self._send(decision)
        await self._telling.question_answered(question, decision, by=by, outcome=outcome)

    def closing(self, questions: Sequence[Question], *, by: str) -> None:
        """Remember who closes these questions."""
        for question in questions:
            self._closers[question.request.ref] = by
        while len(self._closers) > _REMEMBERED:
            del self._closers[next(iter(self._closers))]
