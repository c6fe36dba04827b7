"""Chat: one person, or script, in one session."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from relaykit_gateway.address import Address, ClientError
from relaykit_gateway.chat.transcript import Transcript, choose
from relaykit_gateway.client import RelayClient, connect
from relaykit_gateway.terminal.lines import Lines
from relaykit_gateway.terminal.screen import Style
from relaykit_gateway.websocket_client import Disconnected

FAILED = 1

_LAST_WORDS = 2.0  # seconds in which a session that dies of its last turn will mostly have said so
_TWICE = 1.0  # seconds within which a second Ctrl-C detaches, whatever goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which session to talk in: one that there is, or a new one.

    :param agent: empty for the relay's default one; so is `project`.
    """

    session_id: str | None
    role: str
    agent: str = ""
    project: str = ""


async def run_chat(address: Address, wanted: Wanted, lines: Lines, transcript: Transcript) -> int:
    """Talk until the input or the session ends, and return the exit code of the command.

    It is 0, but for a last turn that failed, and a session that ended otherwise than by request.

    :raises ClientError: the relay cannot be reached.
    """
    async with connect(address) as connection:
        with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
            try:
                return await Chat(connection, lines, transcript).run(wanted, interrupts)
            except ExceptionGroup as group:
                if group.subgroup(BrokenPipeError) is not None:
                    raise BrokenPipeError from group  # whoever reads our output has gone: no error of ours
                raise


class Chat:
    """Says each line, and shows what comes.

    A line is taken when no turn runs, or for the answer to a question, so that a script's lines wait for
    each other. Leaving ends nothing: the session lives on.
    """

    def __init__(self, connection: RelayClient, lines: Lines, transcript: Transcript) -> None:
        self._connection = connection
        self._lines = lines
        self._transcript = transcript
        self._session_id = ""
        self._attached: Mapping[str, Any] = {}
        self._ready = False
        self._caught_up = False
        self._turns = 0  # running or waiting
        self._failed = False  # the last turn did
        self._last_prompt = 0  # the seq of the last prompt of others
        self._questions: dict[str, Mapping[str, Any]] = {}
        self._last_sent = ""
        self._last_interrupt: float | None = None  # since the last line
        self._changed = anyio.Event()
        self._reading: anyio.CancelScope | None = None
        self._tasks = anyio.create_task_group()
        self._exit_code = 0
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "session:created": self._on_created,
            "session:ready": self._on_ready,
            "session:attached": self._on_attached,
            "session:gap": self._on_gap,
            "session:caught_up": self._on_caught_up,
            "session:terminated": self._on_terminated,
            "agent:update": self._on_update,
            "agent:response": self._on_response,
            "agent:request": self._on_request,
            "permission:request": self._on_question,
            "permission:resolved": self._on_resolved,
            "error": self._on_error,
        }

    async def run(self, wanted: Wanted, interrupts: AsyncIterable[signal.Signals]) -> int:
        """Talk, once, and return the exit code."""
        async with self._tasks as tasks:
            tasks.start_soon(self._listen)
            tasks.start_soon(self._heed, interrupts)
            if wanted.session_id is None:
                await self._send(
                    "session:create", agentId=wanted.role, agent=wanted.agent, project=wanted.project
                )
            else:
                self._session_id = wanted.session_id
                await self._send("session:attach", sessionId=wanted.session_id)
            await self._speak()
        return self._exit_code

    @property
    def _live(self) -> bool:
        return self._ready and self._caught_up

    def _leave(self, exit_code: int, *, detached: bool = False) -> None:
        self._transcript.end_line()
        if detached and self._session_id:
            self._transcript.note(f"the session lives on: relaykit chat {self._session_id}")
        self._exit_code = exit_code
        self._tasks.cancel_scope.cancel()

    # ------------------------------------------------------------ what is typed

    async def _speak(self) -> None:
        while True:
            await self._turn_to_speak()
            question = next(iter(self._questions.values()), None)
            if question is None:
                self._transcript.prompt()
            else:
                self._lines.discard()
                self._transcript.question(question)
            line: str | None = None
            with anyio.CancelScope() as self._reading:
                try:
                    line = await self._lines.next()
                except anyio.EndOfStream:
                    await self._leave_at_end()
                    return
            self._reading = None
            if line is not None:  # else something has changed what it would mean
                self._transcript.typed(line)
                self._last_interrupt = None
                await self._say(line, question)

    async def _leave_at_end(self) -> None:
        """Leave, because there is nothing more to say."""
        if self._failed:  # which may be the first that is heard of the session's end
            await anyio.sleep(_LAST_WORDS)
        self._leave(FAILED if self._failed else 0, detached=True)

    async def _turn_to_speak(self) -> None:
        while not self._live or (self._turns and not self._questions):
            self._changed = anyio.Event()
            await self._changed.wait()

    async def _say(self, line: str, question: Mapping[str, Any] | None) -> None:
        if line.strip() == "/stop":
            await self._send("session:stop", sessionId=self._session_id, reason="stopped in a chat")
            await anyio.sleep_forever()  # until it is told that the session has ended
        elif question is not None:
            option = choose(question, line)
            if option is None:
                self._transcript.note(f"{line!r} is none of the answers")
            else:
                self._questions.pop(question["requestId"], None)
                await self._send(
                    "permission:response",
                    sessionId=self._session_id,
                    requestId=question["requestId"],
                    optionId=option,
                )
        elif line.strip():
            self._turns += 1
            await self._send("agent:message", sessionId=self._session_id, content=line)

    async def _send(self, type_: str, /, **fields: Any) -> None:
        self._last_sent = type_
        try:
            await self._connection.send(type_, **fields)
        except Disconnected:
            await anyio.sleep_forever()  # `_listen` hears it too, after what was still said

    async def _heed(self, interrupts: AsyncIterable[signal.Signals]) -> None:
        async for _ in interrupts:
            now, before = anyio.current_time(), self._last_interrupt
            if before is not None and (now - before < _TWICE or not self._turns):
                self._leave(0, detached=True)
                return
            self._last_interrupt = now
            if self._turns:
                self._transcript.note("cancelling; Ctrl-C again detaches")
                await self._send("agent:cancel", sessionId=self._session_id)
            else:
                self._transcript.note("Ctrl-C again detaches, /stop ends the session")

    # ------------------------------------------------------------ what is heard

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._connection.receive()
            except ClientError as error:
                self._transcript.note(str(error), Style.RED)
                self._leave(FAILED)
                return
            handler = self._handlers.get(message["type"])
            if handler is not None:
                handler(message)
                self._changed.set()

    def _on_created(self, message: Mapping[str, Any]) -> None:
        self._session_id = message["sessionId"]
        self._caught_up = True
        self._transcript.note(f"session {self._session_id}: {message['agent']} as {message['agentId']}")

    def _on_ready(self, message: Mapping[str, Any]) -> None:
        self._ready = True
        self._transcript.note(f"the agent works in {message['worktreeDir']}")

    def _on_attached(self, message: Mapping[str, Any]) -> None:
        self._attached = message
        self._ready = message["state"] == "ACTIVE"  # the entry that says so may not be kept any more
        self._transcript.note(f"session {message['sessionId']}: {message['agentId']}, {message['state']}")

    def _on_gap(self, message: Mapping[str, Any]) -> None:
        self._transcript.note(f"(entries {message['from']} to {message['to']} are not kept any more)")
        self._turns = 0

    def _on_caught_up(self, message: Mapping[str, Any]) -> None:
        if message["seq"] <= self._attached["head"]:
            self._turns = int(self._attached["turnRunning"])  # nor its beginning
        self._caught_up = True

    def _on_terminated(self, message: Mapping[str, Any]) -> None:
        self._transcript.terminated(message)
        self._leave(0 if message["cause"] == "REQUESTED" else FAILED)

    def _on_update(self, message: Mapping[str, Any]) -> None:
        if (
            message["update"].get("sessionUpdate") == "user_message_chunk"
            and message["seq"] != self._last_prompt
        ):
            self._last_prompt = message["seq"]  # a prompt of several blocks is one turn
            self._turns += 1
        self._transcript.update(message["update"])

    def _on_response(self, message: Mapping[str, Any]) -> None:
        self._turn_over(failed=False)
        self._transcript.turn_end(message["stopReason"])

    def _on_request(self, message: Mapping[str, Any]) -> None:
        self._transcript.note(
            f"the agent asks by {message['method']}, which cannot be answered here: Ctrl-C cancels",
            Style.YELLOW,
        )

    def _on_question(self, message: Mapping[str, Any]) -> None:
        self._questions[message["requestId"]] = message
        self._stop_reading()

    def _on_resolved(self, message: Mapping[str, Any]) -> None:
        if self._questions.pop(message["requestId"], None) is not None and self._live:
            answer = message.get("optionId") or message.get("outcome") or "answered"
            self._transcript.note(f"answered elsewhere: {answer}")
            self._stop_reading()

    def _on_error(self, message: Mapping[str, Any]) -> None:
        error = message["error"]
        if error["code"] == "SPAWN_FAILED":
            return  # `session:terminated` follows, and says the same
        self._transcript.note(f"{error['code']}: {error['message']}", Style.RED)
        if "seq" in message or (self._live and self._last_sent == "agent:message"):
            self._turn_over(failed=True)  # or it was not begun
        elif not self._live:
            if error["code"] == "DUPLICATE_ROLE":
                self._transcript.note("(relaykit chat SESSION_ID attaches; --role NAME is another role)")
            self._leave(FAILED)

    def _turn_over(self, *, failed: bool) -> None:
        self._failed = failed
        self._turns = max(0, self._turns - 1)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
