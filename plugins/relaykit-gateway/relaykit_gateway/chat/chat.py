"""Chat: one person, or script, in one session."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio

from relaykit.ids import SystemIds
from relaykit_gateway.acp_client import (
    AcpClient,
    AcpError,
    AgentCrashed,
    Gap,
    Json,
    Question,
    QuestionClosed,
    SessionAsleep,
    SessionAwake,
    SessionEnded,
    SessionOpened,
    TurnEnded,
    TurnStarted,
    Update,
    WakeFailed,
    connect_acp,
)
from relaykit_gateway.address import Address, ClientError
from relaykit_gateway.chat.asking import Asker
from relaykit_gateway.chat.commands import Commands
from relaykit_gateway.chat.transcript import Transcript
from relaykit_gateway.chat.wanted import CAPABILITIES, Wanted
from relaykit_gateway.terminal.lines import Lines
from relaykit_gateway.terminal.screen import Style, bare_broken_pipe
from relaykit_gateway.websocket_client import Disconnected

FAILED = 1

_LAST_WORDS = 2.0  # seconds in which a session that dies of its last turn will mostly have said so
_SLOW = 2.0  # seconds after which to say that it takes a while: an agent may be fetched first
_TWICE = 1.0  # seconds within which a second Ctrl-C detaches, whatever goes on


async def run_chat(address: Address, wanted: Wanted, lines: Lines, transcript: Transcript) -> int:
    """Talk until the input or the session ends, and return the exit code of the command.

    It is 0, but for a last turn that failed, and a session that ended otherwise than by request.

    :raises ClientError: the relay cannot be reached.
    """
    with bare_broken_pipe():
        async with connect_acp(
            address, agent=wanted.agent, project=wanted.project, capabilities=CAPABILITIES
        ) as client:
            with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
                return await Chat(client, lines, transcript).run(wanted, interrupts)


class Chat:
    """Says each line, and shows what comes.

    A line is taken when no turn runs, or for the answer to a question, so that a script's lines wait for
    each other. Leaving ends nothing: the session lives on.
    """

    def __init__(self, client: AcpClient, lines: Lines, transcript: Transcript) -> None:
        self._client = client
        self._lines = lines
        self._transcript = transcript
        self._asker = Asker(transcript, lines, self._read_line)
        self._commands = Commands(client, transcript)
        self._ids = SystemIds()
        self._session_id = ""
        self._opened: SessionOpened | None = None
        self._turns: set[str] = set()  # running or waiting, whoever's they are
        self._own_turns: set[str] = set()
        self._failed = False  # the last turn did
        self._questions: dict[str, Question] = {}
        self._asked = ""  # the id of the one that is being asked
        self._last_interrupt: float | None = None  # since the last line
        self._changed = anyio.Event()
        self._reading: anyio.CancelScope | None = None
        self._tasks = anyio.create_task_group()
        self._exit_code = 0
        self._handlers: Mapping[type, Callable[[Any], None]] = {
            SessionOpened: self._on_opened,
            Update: self._on_update,
            Question: self._on_question,
            QuestionClosed: self._on_question_closed,
            TurnStarted: self._on_turn_started,
            TurnEnded: self._on_turn_ended,
            Gap: self._on_gap,
            AgentCrashed: self._on_agent_crashed,
            SessionAsleep: self._on_asleep,
            SessionAwake: self._on_awake,
            WakeFailed: self._on_wake_failed,
            SessionEnded: self._on_session_ended,
        }

    async def run(self, wanted: Wanted, interrupts: AsyncIterable[signal.Signals]) -> int:
        """Talk, once, and return the exit code."""
        self._session_id = wanted.session_id or ""
        async with self._tasks as tasks:
            tasks.start_soon(self._listen)
            tasks.start_soon(self._unless_gone, partial(self._heed, interrupts))
            await self._unless_gone(partial(self._open_and_speak, wanted))
        return self._exit_code

    async def _unless_gone(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Disconnected:
            await anyio.sleep_forever()  # `_listen` hears it too, after what was still said
        except ClientError as error:
            self._fail(error)

    async def _open_and_speak(self, wanted: Wanted) -> None:
        self._tasks.start_soon(self._say_if_slow)
        await wanted.open(self._client, replay=True)
        await self._speak()

    async def _say_if_slow(self) -> None:
        await anyio.sleep(_SLOW)
        if self._opened is None:
            self._transcript.note("waiting for the agent …")

    def _fail(self, error: ClientError) -> None:
        self._transcript.note(str(error), Style.RED)
        if isinstance(error, AcpError) and error.word == "DUPLICATE_ROLE":
            self._transcript.note("(relaykit chat SESSION_ID attaches; --role NAME is another role)")
        elif isinstance(error, AcpError) and error.word == "SESSION_NOT_FOUND":
            self._transcript.note("(one that has ended: relaykit transcript ID, relaykit sessions resume ID)")
        self._leave(FAILED, detached=isinstance(error, Disconnected))

    def _leave(self, exit_code: int, *, detached: bool = False) -> None:
        self._transcript.end_line()
        if detached and self._session_id:
            self._transcript.note(f"the session lives on: relaykit chat {self._session_id}")
        elif detached:
            self._transcript.note("a session may have been begun: relaykit sessions list")
        self._exit_code = exit_code
        self._tasks.cancel_scope.cancel()

    # ------------------------------------------------------------ what is typed

    async def _speak(self) -> None:
        while True:
            await self._turn_to_speak()
            question = next(iter(self._questions.values()), None)
            line: str | None = None
            answer: Json | None = None
            with anyio.CancelScope() as self._reading:
                try:
                    if question is None:
                        line = await self._read_line("> ")
                    else:
                        self._asked = question.id
                        answer = await self._asker.ask(question)
                except anyio.EndOfStream:
                    await self._leave_at_end()
                    return
            # Neither, if something has changed what it would have meant.
            self._reading, self._asked = None, ""
            if question is not None and answer is not None:
                self._questions.pop(question.id, None)
                await self._client.respond(question, answer)
            elif line is not None:
                await self._say(line)

    async def _read_line(self, prompt: str) -> str:
        while True:
            self._transcript.prompt(prompt)
            line = await self._lines.next()
            self._transcript.typed(line)
            self._last_interrupt = None
            if line.strip() != "/stop":
                return line
            await self._stop()

    async def _stop(self) -> None:
        try:
            await self._client.close_session(self._session_id)
        except AcpError as error:
            self._transcript.note(str(error), Style.RED)
        else:
            await anyio.sleep_forever()  # until it is told that the session has ended

    async def _leave_at_end(self) -> None:
        """Leave, because there is nothing more to say."""
        if self._failed:  # which may be the first that is heard of the session's end
            await anyio.sleep(_LAST_WORDS)
        self._leave(FAILED if self._failed else 0, detached=True)

    async def _turn_to_speak(self) -> None:
        while self._opened is None or (self._turns and not self._questions):
            self._changed = anyio.Event()
            await self._changed.wait()

    async def _say(self, line: str) -> None:
        if not line.strip():
            return
        content = await self._commands.run(line)
        if content is not None:
            turn = self._ids.new_id()
            self._turns.add(turn)
            self._own_turns.add(turn)
            await self._client.begin_prompt(self._session_id, content, turn=turn)

    async def _heed(self, interrupts: AsyncIterable[signal.Signals]) -> None:
        async for _ in interrupts:
            now, before = anyio.current_time(), self._last_interrupt
            if before is not None and (now - before < _TWICE or not self._turns):
                self._leave(0, detached=True)
                return
            self._last_interrupt = now
            if self._turns:
                self._transcript.note("cancelling; Ctrl-C again detaches")
                await self._client.cancel(self._session_id)
            else:
                self._transcript.note("Ctrl-C again detaches, /stop ends the session")

    # ------------------------------------------------------------ what is heard

    async def _listen(self) -> None:
        try:
            async for event in self._client:
                handler = self._handlers.get(type(event))
                if handler is not None:
                    handler(event)
                    self._changed.set()
        except ClientError as error:
            self._fail(error)

    def _on_opened(self, event: SessionOpened) -> None:
        self._opened, self._session_id = event, event.session_id
        self._turns = {event.turn_running} if event.turn_running else set()
        self._commands.opened(event.session_id, event.result)
        self._transcript.note(f"session {event.session_id}: {event.agent} as {event.role}")
        self._transcript.note(f"the agent works in {event.cwd}")

    def _on_update(self, event: Update) -> None:
        self._commands.heard(event.update)
        self._transcript.update(event.update)

    def _on_turn_started(self, event: TurnStarted) -> None:
        self._turns.add(event.turn)

    def _on_turn_ended(self, event: TurnEnded) -> None:
        self._turns.discard(event.turn)
        self._own_turns.discard(event.turn)
        self._failed = event.error is not None
        self._transcript.turn_end(event.stop_reason if event.error is None else "end_turn")
        if event.error is not None:
            self._transcript.note(f"failed: {event.error}", Style.RED)

    def _on_gap(self, event: Gap) -> None:
        self._transcript.note(f"(entries {event.first} to {event.last} are not kept any more)")
        self._turns &= self._own_turns  # the others' ends may be among them

    def _on_question(self, event: Question) -> None:
        if not self._asker.can_ask(event):
            self._transcript.note(
                f"the agent asks by {event.method}, which cannot be answered here: Ctrl-C cancels",
                Style.YELLOW,
            )
            return
        self._questions[event.id] = event
        if not self._asked:
            self._stop_reading()

    def _on_question_closed(self, event: QuestionClosed) -> None:
        if self._questions.pop(event.id, None) is not None:
            self._transcript.note(f"answered by {event.by}" if event.client else "no longer asked")
            if self._asked == event.id:
                self._stop_reading()

    def _on_agent_crashed(self, event: AgentCrashed) -> None:
        self._transcript.crashed(event.reason)

    def _on_asleep(self, event: SessionAsleep) -> None:
        self._transcript.asleep(event.reason)

    def _on_awake(self, _event: SessionAwake) -> None:
        self._transcript.awake()

    def _on_wake_failed(self, event: WakeFailed) -> None:
        self._transcript.wake_failed(event.reason)

    def _on_session_ended(self, event: SessionEnded) -> None:
        self._transcript.ended(event)
        self._leave(0 if event.cause == "REQUESTED" else FAILED)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
