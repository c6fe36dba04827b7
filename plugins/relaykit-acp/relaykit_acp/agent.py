"""AcpAgent: a running agent that speaks ACP, as a session sees it."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from relaykit.conversation.frame import Frame, Kind
from relaykit.errors import LAST_WORDS, AgentGone, AgentOverLimit, FrameTooLarge
from relaykit.session.model import Json
from relaykit_acp import envelope, questions
from relaykit_acp.cgroups import AgentGroup
from relaykit_acp.envelope import Message, NotAMessage, NotJson
from relaykit_acp.limits import Limit
from relaykit_acp.lines import LineSplitter
from relaykit_acp.mask import NO_SECRETS, Mask
from relaykit_acp.modes import Modes
from relaykit_acp.noise import Noise
from relaykit_acp.process import AgentProcess
from relaykit_acp.writer import LineWriter

logger = logging.getLogger(__name__)

# Requests of the connection, not of a session: they carry no session id.
_SESSIONLESS = frozenset({"authenticate", "initialize", "logout", "session/list", "session/new"})


@dataclass(frozen=True, slots=True)
class _Call:
    """A request of ours that the agent has not answered yet.

    :param params: what was asked for, where the answer alone does not say what is now the case.
    """

    kind: Kind
    ref: str
    method: str
    params: bytes = b""


class AcpAgent:
    """One agent process and one ACP session in it. See `relaykit.agent.agent.Agent` for the contract.

    Every request id that goes to the agent is ours. The agent's own ids, which may be equal to ours, never
    leave this object: a REQUEST carries a fresh `ref`, and the DECISION with that `ref` is answered with
    the agent's raw id.

    :param name: the configured agent's name.
    :param label: what log lines call it.
    :param new_ref: makes refs that are unique within the session, over restarts of the agent too.
    :param tasks: where answers go out that `receive` must not wait for.
    :param group: tells whether it went over a limit.
    :param mask: takes secrets out of what is logged, and out of errors.
    """

    def __init__(
        self,
        process: AgentProcess,
        *,
        name: str,
        label: str,
        max_frame_bytes: int,
        new_ref: Callable[[], str],
        tasks: TaskGroup,
        group: AgentGroup | None = None,
        mask: Mask = NO_SECRETS,
    ) -> None:
        self._process = process
        self._name = name
        self._limit = max_frame_bytes
        self._group = group
        self._new_ref = new_ref
        self._label = label
        self._lines = LineSplitter(max_frame_bytes)
        self._noise = Noise(label, mask)
        self.mask = mask
        self.enter_session(b'""', Modes())
        self._writer = LineWriter(process, tasks)
        self._next_id = 0
        self._calls: dict[bytes, _Call] = {}
        self._questions: dict[str, bytes] = {}
        self._frames: list[Frame] = []
        self._ended = False
        self._over_limit: Limit | None = None
        self._needs_login = False

    # ------------------------------------------------------------ the Agent contract

    @property
    def opened(self) -> Json:
        """Its answer to ``session/new``, less the id; modes and config options as they were set since."""
        return self._modes.opened

    @property
    def needs_login(self) -> bool:
        """It answered the last prompt with -32000."""
        return self._needs_login

    async def send(self, frame: Frame, /) -> None:
        """Give the agent a PROMPT, CANCEL, CALL or DECISION.

        :raises AgentGone: its process has ended, or it has been closed.
        :raises ValueError: the body is not the JSON that the frame needs.
        """
        match frame.kind:
            case Kind.PROMPT:
                call = _Call(Kind.TURN_END, frame.ref, "session/prompt")
                await self._call(call, self._addressed(frame.body))
            case Kind.CALL:
                sessionless = frame.method in _SESSIONLESS
                params = (
                    envelope.one_line(frame.body) or b"{}" if sessionless else self._addressed(frame.body)
                )
                await self._call(_Call(Kind.RESULT, frame.ref, frame.method, params), params)
            case Kind.CANCEL:
                await self._cancel(frame)
            case Kind.DECISION:
                body = envelope.one_line(frame.body)
                await self._answer(frame.ref, body, failed=frame.failed)
            case _:
                raise ValueError(f"a {frame.kind} does not go to an agent")

    def send_nowait(self, frame: Frame, /) -> bool:
        """Give the agent a PROMPT if that takes no waiting; else do nothing and return False.

        :raises ValueError: the body is not the JSON that the frame needs.
        """
        if frame.kind is not Kind.PROMPT or self._ended:
            return False
        params = self._addressed(frame.body)
        if not self._writer.take_turn_nowait():
            return False
        raw_id = self._open_call(_Call(Kind.TURN_END, frame.ref, "session/prompt"))
        went = self._writer.put_nowait(envelope.request(self._next_id, "session/prompt", params))
        if not went:
            del self._calls[raw_id]
        return went

    async def receive(self) -> Sequence[Frame]:
        """Return what the agent said since the last call: at least one frame, in order. A single reader.

        Calls that are open when the agent goes away end here, failed, before the end of the stream. A turn does not:
        how it ends is for who prompted to say.

        :raises EndOfStream: the agent is gone and everything that it said was returned.
        :raises FrameTooLarge: it sent a message over the limit.
        :raises AgentOverLimit: it is gone because it used more than it may.
        """
        while not self._frames:
            if not await self._read():
                raise self._parting()
        frames, self._frames = self._frames, []
        return frames

    def farewell(self) -> str:
        """Return for people how the agent ended: exit code or signal, and its last words."""
        code = self._process.exit_code
        if code is None:
            how = "it closed its output" if self._ended else "it is running"
        elif code < 0:
            how = f"it was ended by {_signal_name(-code)}"
        else:
            how = f"it exited with {code}"
        words = f"{LAST_WORDS}{self.last_words}" if self.last_words else ""
        return f"agent {self._name!r}: {how}{words}"

    async def aclose(self) -> None:
        """Stop the agent and everything that it started. Idempotent; concurrent calls wait for the first."""
        await self._process.aclose()

    # ------------------------------------------------------------ the launcher's part

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative: the signal that ended it; None while it runs."""
        return self._process.exit_code

    @property
    def last_words(self) -> str:
        """The last lines on stderr; if there were none, the last on stdout that were no messages."""
        return self._process.stderr or str(self._noise)

    async def ask(self, method: str, params: bytes, *, forget: bool = False) -> Frame:
        """Send a request before anybody else reads, and return its RESULT; all else is kept for `receive`.

        :param params: raw JSON on one line.
        :param forget: keep nothing of what comes before the answer.
        :raises EndOfStream: the agent went away instead.
        :raises AgentOverLimit: the same, because it used more than it may.
        """
        ref = self._new_ref()
        with contextlib.suppress(AgentGone):  # its last words are read first
            await self._call(_Call(Kind.RESULT, ref, method), params)
        seen = 0
        while True:
            for place in range(seen, len(self._frames)):
                if self._frames[place].ref == ref:
                    answered = self._frames.pop(place)
                    if self._ended:
                        raise self._parting()
                    if forget:
                        del self._frames[:place]
                    return answered
            if forget:
                self._frames.clear()
            seen = len(self._frames)
            if not await self._read():
                raise self._parting()

    def enter_session(self, session_id: bytes, modes: Modes) -> None:
        """Address all that follows to this ACP session; raw JSON, quotes included.

        :param modes: what the agent said of it.
        """
        self._modes = modes
        self._session_id = session_id
        self._address = b'{"sessionId":%b,' % session_id

    # ------------------------------------------------------------ to the agent

    def _addressed(self, body: bytes) -> bytes:
        return envelope.splice_session_id(self._session_id, body)

    async def _call(self, call: _Call, params: bytes) -> None:
        await self._writer.take_turn()
        # It stays open if the caller is cancelled: the line may be out already, and be answered.
        raw_id = self._open_call(call)
        try:
            await self._put(envelope.request(self._next_id, call.method, params))
        except AgentGone:
            self._calls.pop(raw_id, None)
            raise

    async def _cancel(self, frame: Frame) -> None:
        if frame.ref:
            raw_id = next((raw_id for raw_id, call in self._calls.items() if call.ref == frame.ref), None)
            if raw_id is None:
                return  # it was answered meanwhile
            line = envelope.notification("$/cancel_request", b'{"requestId":%b}' % raw_id)
        else:
            line = envelope.notification("session/cancel", self._addressed(frame.body))
        await self._writer.take_turn()
        await self._put(line)

    def _open_call(self, call: _Call) -> bytes:
        self._next_id += 1
        raw_id = b"%d" % self._next_id
        self._calls[raw_id] = call
        return raw_id

    async def _answer(self, ref: str, body: bytes, *, failed: bool) -> None:
        raw_id = self._questions.pop(ref, None)
        if raw_id is None and not self._ended:
            logger.warning("%s: no question %r is open; its answer is dropped", self._label, ref)
            return
        try:
            await self._writer.take_turn()
        except BaseException:
            self._questions[ref] = raw_id or b"null"  # it is unanswered still
            raise
        await self._put(envelope.answer(raw_id or b"null", body, failed=failed))

    async def _put(self, line: bytes) -> None:
        if not await self._writer.put(line) or self._ended:
            raise AgentGone(
                "it has ended, and takes no more messages", agent=self._name, exit_code=self.exit_code
            )

    # ------------------------------------------------------------ from the agent

    async def _read(self) -> bool:
        """Take in the next chunk; False once the agent is gone and nothing more comes of it."""
        if self._lines.overflowed:
            raise FrameTooLarge(agent=self._name, limit=self._limit)
        if self._ended:
            return False
        chunk = await self._process.read()
        if not chunk:
            await self._process.settle()
            self._end()
            return bool(self._frames)
        for line in self._lines.feed(chunk):
            if line and not line.isspace():
                self._take(line)
        return True

    def _parting(self) -> Exception:
        """Return what says that the agent is gone."""
        if self._over_limit is None:
            return anyio.EndOfStream()
        return AgentOverLimit(
            agent=self._name, limit=f"{self._over_limit} in [plugins.acp]", stderr=self.last_words
        )

    def _end(self) -> None:
        self._ended = True
        self._over_limit = self._group.exceeded() if self._group is not None else None
        lost = envelope.error_object(envelope.INTERNAL_ERROR, self.farewell())
        self._frames += [
            Frame(call.kind, lost, call.ref, call.method, failed=True)
            for call in self._calls.values()
            if call.kind is not Kind.TURN_END
        ]
        self._calls.clear()
        self._questions.clear()

    def _take(self, line: bytes) -> None:
        try:
            message = envelope.decode(line)
        except NotJson as error:
            self._noise.heard(line, str(error))
        except NotAMessage as error:
            self._noise.heard(line, str(error))
            if error.answers in self._calls:
                garbled = envelope.error_object(
                    envelope.INTERNAL_ERROR, f"the agent's answer is garbled: {error}"
                )
                self._take_answer(error.answers, garbled, failed=True)
            elif error.raw_id is not None:
                refusal = envelope.error_object(envelope.INVALID_REQUEST, str(error))
                self._writer.put_later(envelope.answer(error.raw_id, refusal, failed=True))
        else:
            if not message.method:
                self._take_response(message, line)
            elif message.id:
                self._take_request(message)
            else:
                self._take_notification(message)

    def _take_notification(self, message: Message) -> None:
        raw = bytes(message.params)
        short = raw.startswith(self._address)
        body = b"{" + raw[len(self._address) :] if short else envelope.strip_session_id(raw)
        ref = self._cancelled_question(body) if message.method == "$/cancel_request" else ""
        self._modes.heard_update(body)
        self._frames.append(Frame(Kind.UPDATE, body, ref, message.method))

    def _cancelled_question(self, body: bytes) -> str:
        cancelled = questions.cancelled_id(body)
        return next((ref for ref, raw_id in self._questions.items() if raw_id == cancelled), "")

    def _take_request(self, message: Message) -> None:
        raw_id = bytes(message.id)
        if message.method in questions.METHODS:
            ref = self._new_ref()
            self._questions[ref] = raw_id
            self._frames.append(
                Frame(Kind.REQUEST, envelope.strip_session_id(message.params), ref, message.method)
            )
            return
        logger.info("%s: asked for %r, which is not offered", self._label, message.method[:200])
        refusal = envelope.error_object(envelope.METHOD_NOT_FOUND, f"method not found: {message.method}")
        self._writer.put_later(envelope.answer(raw_id, refusal, failed=True))

    def _take_response(self, message: Message, line: bytes) -> None:
        raw_id = bytes(message.id)
        if raw_id not in self._calls:
            self._noise.heard(line, "it answers nothing that is open")
        elif message.error and message.error != b"null":
            self._take_answer(raw_id, bytes(message.error), failed=True)
        else:
            self._take_answer(raw_id, bytes(message.result), failed=False)

    def _take_answer(self, raw_id: bytes, body: bytes, *, failed: bool) -> None:
        call = self._calls.pop(raw_id)
        if call.kind is Kind.TURN_END:
            self._needs_login = failed and envelope.error_code(body) == envelope.LOGIN_REQUIRED
        elif not failed:
            self._modes.heard_answer(call.method, call.params, body)
        self._frames.append(Frame(call.kind, body, call.ref, call.method, failed=failed))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
