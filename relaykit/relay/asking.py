"""Asking: the agent's questions, on their way to people, and the answers, on their way back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from relaykit.agent.launcher import AgentLauncher
from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.permissions import Question, Questions
from relaykit.relay.deciders import AGENT, ANSWERED, CANCELLED, EXPIRED, RELAY, Decider, Deciders, decided
from relaykit.relay.judging import Judging
from relaykit.relay.notices import UNDELIVERED, notice
from relaykit.relay.telling import Telling
from relaykit.session.model import Session


@dataclass(frozen=True, slots=True)
class Closed:
    """A question that is being closed.

    :param judged: it was still judged: nobody has seen it, and it is not in the transcript.
    """

    question: Question
    decision: Frame
    decider: Decider
    judged: bool = False

    @property
    def frames(self) -> Sequence[Frame]:
        """What the transcript is to say of it."""
        asked = [self.question.request] if self.judged else []
        return (*asked, self.decision, decided(self.decision, self.decider))


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
        judging: Judging,
        session: Callable[[], Awaitable[Session]],
        send: Callable[[Frame], None],
        clock: Clock,
        telling: Telling,
    ) -> None:
        self.deciders = Deciders(conversation.read)
        self._conversation = conversation
        self._questions = questions
        self._launcher = launcher
        self._judging = judging
        self._session = session
        self._send = send
        self._clock = clock
        self._telling = telling
        self._judged: dict[str, Question] = {}

    @property
    def judges(self) -> bool:
        """Questions are judged before people see them: see `judge`."""
        return self._judging.is_needed

    @property
    def is_open(self) -> bool:
        """A question waits for its answer, of people or of those who judge first."""
        return len(self._questions) > 0 or len(self._judged) > 0

    # ------------------------------------------------------------ questions

    def ask(self, request: Frame) -> Question:
        """Open a question for people, before it is recorded: its answer may come at once."""
        return self._questions.ask(request, at=self._clock.monotonic())

    def hold(self, request: Frame) -> Question:
        """Note a question that is going to be judged. Meanwhile nobody sees it, but it may be cancelled."""
        question = self._judged[request.ref] = Question(request, self._clock.monotonic())
        return question

    async def judge(self, question: Question, *, is_over: Callable[[], bool]) -> None:
        """Judge a question that is held; only what nothing answers is put to people.

        :param is_over: tells whether the turn that the question belongs to has been cancelled.
        """
        request = question.request
        verdict = None if is_over() else await self._judging.verdict(request, await self._session())
        if self._judged.pop(request.ref, None) is None:
            return  # it was closed meanwhile
        if is_over():  # the agent asked before it heard of the cancel
            await self._close(self._cancelled(question, judged=True))
            return
        if verdict is not None:
            await self._close(Closed(question, verdict.decision, verdict.decider, judged=True))
            return
        question = self._questions.ask(request, at=question.asked)
        [entry] = await self._conversation.publish([request])
        question.seq = entry.seq
        await self.asked(request, is_over=is_over())

    async def asked(self, request: Frame, *, is_over: bool) -> None:
        """Tell of a question that was put to people; if its turn is over already, it is closed at once."""
        await self._telling.question_asked(request)
        if is_over:  # the agent asked before it heard of the cancel
            question = self._questions.discard(request.ref)
            if question is not None:
                await self._close(self._cancelled(question))

    # ------------------------------------------------------------ answers

    async def answer(self, question: Question, body: bytes | None, *, by: str, client_id: str) -> None:
        """Close a question that was taken out with somebody's answer; None: as cancelled."""
        if body is None:
            await self._close(self._cancelled(question, by=by, client_id=client_id))
        else:
            decision = Frame(Kind.DECISION, body, question.request.ref, question.request.method)
            await self._close(Closed(question, decision, Decider(by, ANSWERED, client_id=client_id)))

    async def take_back(self, ref: str) -> None:
        """Close a question that the agent does not want to be answered any more, if it is open."""
        question = self._questions.discard(ref)
        if question is not None:
            await self._close(self._cancelled(question, by=AGENT))
        elif (judged := self._judged.pop(ref, None)) is not None:
            await self._close(self._cancelled(judged, by=AGENT, judged=True))

    def has_waited(self, seconds: float) -> bool:
        """Tell whether a question has waited for so long."""
        return bool(self._expired(seconds))

    async def decline_expired(self, seconds: float) -> None:
        """Close the questions that have waited for so long, with the agent's own way of no."""
        for question in self._expired(seconds):
            if self._questions.discard(question.request.ref) is not None:
                decision = self._launcher.decline(question.request, cancelled=False)
                decider = Decider(RELAY, EXPIRED, f"nobody answered within {seconds:g} s")
                await self._close(Closed(question, decision, decider))

    def _expired(self, seconds: float) -> Sequence[Question]:
        now = self._clock.monotonic()
        # One that is only just recorded has no place in the transcript yet.
        return [question for question in self._questions if question.seq and now - question.asked >= seconds]

    async def cancel_all(self, cancel: Frame) -> None:
        """Tell the agent that its turn is cancelled, and then so of every question, as ACP demands.

        If it cannot be recorded they are all open again.
        """
        closed = self.take_all()
        # The cancel goes first: an agent that hears the answers before it might end the turn as if all were well.
        try:
            await self._conversation.publish([cancel, *(frame for each in closed for frame in each.frames)])
        except BaseException:
            for each in closed:
                self.deciders.forget(each.decision.ref)
                if each.judged:
                    self._judged[each.question.request.ref] = each.question
                else:
                    self._questions.put_back(each.question)
            raise
        self._send(cancel)
        for each in closed:
            self._send(each.decision)
        await self.tell(closed)

    def take_all(self) -> Sequence[Closed]:
        """Take every question out, to be closed as cancelled."""
        judged, self._judged = self._judged, {}
        closed = [self._cancelled(question) for question in self._questions.take_all()]
        closed += [self._cancelled(question, judged=True) for question in judged.values()]
        for each in closed:
            self.deciders.remember(each.decision.ref, each.decider)
        return closed

    async def undelivered(self, decision: Frame, why: str) -> None:
        """Cancel a question whose answer, which is in the transcript, cannot be put to the agent; that is told too."""
        await self._conversation.publish([notice(UNDELIVERED, requestId=decision.ref, reason=why)])
        request = Frame(Kind.REQUEST, ref=decision.ref, method=decision.method)
        self._send(self._launcher.decline(request, cancelled=True))

    def _cancelled(
        self, question: Question, *, by: str = RELAY, client_id: str = "", judged: bool = False
    ) -> Closed:
        decision = self._launcher.decline(question.request, cancelled=True)
        return Closed(question, decision, Decider(by, CANCELLED, client_id=client_id), judged)

    async def _close(self, closed: Closed) -> None:
        """Answer a question that was taken out; if that cannot be recorded it is open again.

        One that was still judged is not: its session ends, as with anything that an agent says in vain.
        """
        self.deciders.remember(closed.decision.ref, closed.decider)
        try:
            await self._conversation.publish(closed.frames)
        except BaseException:
            self.deciders.forget(closed.decision.ref)
            if not closed.judged:
                self._questions.put_back(closed.question)
            raise
        self._send(closed.decision)
        await self.tell([closed])

    async def tell(self, closed: Sequence[Closed]) -> None:
        """Tell plugins who or what closed these questions, and how."""
        for each in closed:
            await self._telling.question_answered(each.question, each.decision, each.decider)
