"""Telling: plugins hear of turns, questions and sleep, outside of the relaying; and the first two are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from relaykit.clock import Clock
from relaykit.conversation.frame import Frame
from relaykit.conversation.permissions import Question
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import (
    CallMade,
    FellAsleep,
    QuestionAnswered,
    QuestionAsked,
    TurnEnded,
    TurnStarted,
    WokeUp,
)
from relaykit.meter import QUESTION_WAIT, TURN_SECONDS, Meter
from relaykit.relay.deciders import Decider
from relaykit.relay.turns import Turn
from relaykit.session.logs import log_message_sent, logs_messages
from relaykit.session.model import Session
from relaykit.session.news import News


class Telling:
    """Makes the events of one session, where somebody listens, and has them told in order.

    :param session: returns the session as it is now.
    """

    def __init__(
        self,
        session: Callable[[], Awaitable[Session]],
        *,
        dispatcher: Dispatcher,
        meter: Meter,
        clock: Clock,
        news: News,
    ) -> None:
        self._session = session
        self._dispatcher = dispatcher
        self._meter = meter
        self._clock = clock
        self._news = news

    async def turn_started(self, turn: Turn, *, client_id: str, by: str) -> None:
        """Log and tell that a prompt went to the agent."""
        listens = self._dispatcher.listens_to("relaykit_on_turn_started")
        if not (listens or logs_messages()):
            return
        session = await self._session()
        log_message_sent(session, turn=turn.ref, client_id=client_id)
        if listens:
            started = TurnStarted(
                session=session, turn=turn.ref, client_id=client_id, by=by, at=self._clock.now()
            )
            self._news.tell(partial(self._dispatcher.turn_started, started))

    async def turn_ended(self, turn: Turn, outcome: str) -> None:
        """Tell that a turn is over."""
        seconds = self._clock.monotonic() - turn.started
        self._meter.observe(TURN_SECONDS, seconds, outcome=outcome)
        if self._dispatcher.listens_to("relaykit_on_turn_ended"):
            ended = TurnEnded(
                session=await self._session(),
                turn=turn.ref,
                outcome=outcome,
                seconds=seconds,
                at=self._clock.now(),
            )
            self._news.tell(partial(self._dispatcher.turn_ended, ended))

    async def call_made(self, call: Frame, *, client_id: str, by: str) -> None:
        """Tell that a client asked something of the agent besides a prompt."""
        if self._dispatcher.listens_to("relaykit_on_call"):
            made = CallMade(
                session=await self._session(), call=call, client_id=client_id, by=by, at=self._clock.now()
            )
            self._news.tell(partial(self._dispatcher.call_made, made))

    async def asleep(self, reason: str, *, crashed: bool) -> None:
        """Tell that the agent is not there any more, and the session is."""
        if self._dispatcher.listens_to("relaykit_on_asleep"):
            session, at = await self._session(), self._clock.now()
            sleep = FellAsleep(session=session, reason=reason, crashed=crashed, at=at)
            self._news.tell(partial(self._dispatcher.asleep, sleep))

    async def awake(self) -> None:
        """Tell that the agent was started again."""
        if self._dispatcher.listens_to("relaykit_on_awake"):
            waking = WokeUp(session=await self._session(), at=self._clock.now())
            self._news.tell(partial(self._dispatcher.awake, waking))

    async def question_asked(self, request: Frame) -> None:
        """Tell that a question was put to people."""
        if self._dispatcher.listens_to("relaykit_on_question_asked"):
            asked = QuestionAsked(session=await self._session(), request=request, at=self._clock.now())
            self._news.tell(partial(self._dispatcher.question_asked, asked))

    async def question_answered(self, question: Question, decision: Frame, decider: Decider) -> None:
        """Tell that a question was answered, by whom or what, and how."""
        seconds = self._clock.monotonic() - question.asked
        self._meter.observe(QUESTION_WAIT, seconds, outcome=decider.outcome)
        if self._dispatcher.listens_to("relaykit_on_question_answered"):
            answered = QuestionAnswered(
                session=await self._session(),
                request=question.request,
                decision=decision,
                by=decider.by,
                client_id=decider.client_id,
                outcome=decider.outcome,
                reason=decider.reason,
                seconds=seconds,
                at=self._clock.now(),
            )
            self._news.tell(partial(self._dispatcher.question_answered, answered))
