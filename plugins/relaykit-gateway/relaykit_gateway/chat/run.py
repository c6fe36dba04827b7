"""Run: one prompt, for scripts."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import anyio

from relaykit.ids import SystemIds
from relaykit_gateway.acp_client import (
    AcpClient,
    AcpError,
    Event,
    Json,
    Question,
    QuestionClosed,
    SessionEnded,
    TurnEnded,
    TurnStarted,
    Update,
    connect_acp,
)
from relaykit_gateway.address import Address, ClientError
from relaykit_gateway.chat.asking import Asker
from relaykit_gateway.chat.outputs import Output
from relaykit_gateway.chat.policy import Policy, decide
from relaykit_gateway.chat.wanted import CAPABILITIES, Wanted
from relaykit_gateway.terminal.screen import bare_broken_pipe
from relaykit_gateway.websocket_client import Disconnected

_CANCEL_SECONDS = 5.0  # that a cancelled turn has to end in
_END_SECONDS = 30.0  # that a session has to end in, until we no longer wait to hear what is left of it


class ExitCode(IntEnum):
    """How a run ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NEEDS_YOU = 4
    CANCELLED = 130


_ENDS = {
    "end_turn": ExitCode.DONE,
    "refusal": ExitCode.REFUSED,
    "cancelled": ExitCode.CANCELLED,
}  # of any other, the answer is not whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be run.

    :param keep: whether a session that was made for it lives on.
    """

    prompt: str
    wanted: Wanted
    policy: Policy
    keep: bool = False

    @property
    def ends_session(self) -> bool:
        """Whether the session is ended at the end: it is if it was made for this."""
        return self.wanted.session_id is None and not self.keep


async def run_task(address: Address, task: Task, output: Output, asker: Asker | None) -> ExitCode:
    """Say one thing to an agent, and return how it went.

    SIGINT and SIGTERM cancel the turn, and end the session if it was made for this. A second one leaves at once,
    and so does one that comes when the agent has answered already.

    :param asker: asks where the policy says so; None for one that does not.
    :raises ClientError: the relay cannot be reached.
    """
    wanted = task.wanted
    with bare_broken_pipe():
        async with connect_acp(
            address, agent=wanted.agent, project=wanted.project, capabilities=CAPABILITIES
        ) as client:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                return await Run(client, task, output, asker).run(signals)


class Run:
    """One prompt, in one session."""

    def __init__(self, client: AcpClient, task: Task, output: Output, asker: Asker | None) -> None:
        self._client = client
        self._task = task
        self._output = output
        self._asker = asker
        self._session_id = ""
        self._turn = SystemIds().new_id()
        self._started = False  # our turn did; until then, what comes belongs to another one
        self._ended = False  # the session did
        self._code: ExitCode | None = None
        self._talking = anyio.CancelScope()
        self._finishing = anyio.CancelScope(shield=True)
        self._asking: dict[str, anyio.CancelScope] = {}
        self._terminal = anyio.Lock()
        self._tasks = anyio.create_task_group()

    async def run(self, signals: AsyncIterable[signal.Signals]) -> ExitCode:
        """Run, once."""
        async with self._tasks as tasks:
            tasks.start_soon(self._heed, signals)
            try:
                with self._talking:
                    await self._talk()
            except ClientError as error:
                self._output.failed(error)
                self._settle(ExitCode.FAILED)
            finally:
                with self._finishing:
                    await self._finish()
            tasks.cancel_scope.cancel()
        code = ExitCode.FAILED if self._code is None else self._code
        self._output.done(code)
        return code

    def _settle(self, code: ExitCode) -> None:
        """Set the exit code, unless there is one."""
        if self._code is None:
            self._code = code

    # ------------------------------------------------------------ the turn

    async def _talk(self) -> None:
        opened = await self._task.wanted.open(self._client, replay=False)
        self._session_id = opened.session_id
        self._output.opened(opened)
        if self._code is not None:  # a signal came meanwhile
            return
        await self._client.begin_prompt(opened.session_id, self._task.prompt, turn=self._turn)
        self._started = opened.turn_running is None
        async for event in self._client:
            if event.session_id == opened.session_id and await self._hear(event):
                return

    async def _hear(self, event: Event) -> bool:
        """Act on an event, and tell whether there is nothing more to wait for."""
        match event:
            case Update() if self._started:
                self._output.update(event)
            case TurnStarted():
                self._started = event.turn == self._turn
            case TurnEnded() if event.turn == self._turn:
                self._output.turn_ended(event)
                self._settle(_ENDS.get(event.stop_reason, ExitCode.FAILED))
                return True
            case Question():
                return not await self._answer(event)
            case QuestionClosed() if event.id in self._asking:
                self._asking[event.id].cancel()
            case SessionEnded():
                self._ended = True
                self._output.session_ended(event)
                self._settle(ExitCode.FAILED)
                return True
            case _:
                pass
        return False

    # ------------------------------------------------------------ questions

    async def _answer(self, question: Question) -> bool:
        """Have it answered, as far as the policy goes; tell whether it is, or will be."""
        if self._started:
            answer = decide(self._task.policy, question)
            if answer is not None:
                self._output.question(question, answer)
                await self._client.respond(question, answer)
                return True
            if self._asker is not None and self._asker.can_ask(question):
                self._tasks.start_soon(self._ask, self._asker, question)
                return True
        self._output.question(question, None)
        self._settle(ExitCode.NEEDS_YOU)
        if not self._started:
            await self._client.withdraw(self._turn)
            self._output.note("another turn waits for an answer: the prompt was taken back")
        return False

    async def _ask(self, asker: Asker, question: Question) -> None:
        with anyio.CancelScope() as self._asking[question.id]:
            answer: Json | None = None
            async with self._terminal:  # one at a time
                try:
                    answer = await asker.ask(question)
                except anyio.EndOfStream:
                    self._settle(ExitCode.NEEDS_YOU)
                    self._talking.cancel()
            if answer is not None:
                with suppress(Disconnected):  # `_talk` hears it too
                    await self._client.respond(question, answer)
        del self._asking[question.id]

    # ------------------------------------------------------------ the end

    async def _heed(self, signals: AsyncIterable[signal.Signals]) -> None:
        async for _ in signals:
            if self._code is not None:  # nothing is left that could be told by another code
                self._talking.cancel()
                self._finishing.cancel()
                return
            self._code = ExitCode.CANCELLED
            self._output.note("cancelling; again leaves at once")
            if self._session_id:  # else it is ended as soon as it is known
                self._talking.deadline = anyio.current_time() + _CANCEL_SECONDS
                with suppress(Disconnected):  # `_talk` hears it too
                    await self._client.cancel(self._session_id)

    async def _finish(self) -> None:
        """Leave the session, or end it and tell what is left of it."""
        if self._ended:
            return
        if not self._session_id:
            if self._code is ExitCode.CANCELLED:
                self._output.note("a session may have been begun: relaykit sessions list")
            return
        if not self._task.ends_session or self._code is ExitCode.NEEDS_YOU:
            self._output.note(f"the session lives on: relaykit chat {self._session_id}")
            return
        try:
            with anyio.move_on_after(_END_SECONDS):
                await self._close()
                async for event in self._client:
                    if isinstance(event, SessionEnded) and event.session_id == self._session_id:
                        self._output.session_ended(event)
                        return
            self._output.note(f"session {self._session_id} is still being ended")
        except ClientError:  # it was told why the relay does not answer
            self._output.note(f"the session may live on: relaykit sessions stop {self._session_id}")

    async def _close(self) -> None:
        try:
            await self._client.close_session(self._session_id)
        except AcpError as error:
            if error.word != "SESSION_NOT_FOUND":
                raise  # else it has ended by itself, which is told too
