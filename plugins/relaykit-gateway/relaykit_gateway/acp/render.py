"""Entries as messages of ACP: made once, for all clients that follow a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from relaykit.agent.launcher import AgentSpec
from relaykit.conversation import Entry, Kind
from relaykit.errors import LoginRequired
from relaykit.relay.deciders import Deciders
from relaykit.relay.notices import AGENT_CRASHED, ASLEEP, AWAKE, ENDED, WAKE_FAILED
from relaykit_gateway.acp.envelope import (
    compose_error,
    compose_notification,
    compose_request,
    compose_result,
    quote,
)
from relaykit_gateway.acp.errors import LOGIN_REQUIRED
from relaykit_gateway.acp.splice import is_plain, members_of, object_of, spliced
from relaykit_gateway.rendering import Rendering

CANCEL_REQUEST = "$/cancel_request"
UPDATE = "session/update"

_TOLD = {
    AGENT_CRASHED: "agent_crashed",
    ASLEEP: "session_asleep",
    AWAKE: "session_awake",
    WAKE_FAILED: "wake_failed",
    ENDED: "session_ended",
}
"""The notices that aware clients hear of, and what they are called there."""


class _Prompt(msgspec.Struct):
    prompt: list[msgspec.Raw]


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


_decode_prompt = msgspec.json.Decoder(_Prompt).decode
_decode_error = msgspec.json.Decoder(_Error).decode


class Subject(Protocol):
    """What there is to know of a session whose messages are written: a `LiveSession`, or what is left of one."""

    @property
    def id(self) -> str:
        """Which session."""
        ...

    @property
    def spec(self) -> AgentSpec:
        """Its agent."""
        ...

    @property
    def inherited(self) -> int:
        """The newest entry of what it was before it was revived; 0 if it was not."""
        ...


class AcpRenderer(Rendering):
    """Writes the messages of one session. What was said is spliced in as it came.

    :param deciders: tells who has answered its questions.
    """

    def __init__(self, live: Subject, deciders: Deciders) -> None:
        super().__init__()
        self._live = live
        self._deciders = deciders
        self._address = b'"sessionId":%b,' % quote(live.id)
        update = '{"jsonrpc":"2.0","method":"session/update","params":'
        self._update_head = f'{update}{{{self._address.decode()}"_meta":{{"relaykit":{{"seq":'

    # ------------------------------------------------------------ for every client

    def messages(self, entry: Entry) -> Sequence[str]:
        """Return what every client is told of an entry: usually one message; none for what is answers alone."""
        if self.followers < 2:  # noqa: PLR2004 -- nothing is kept for one alone
            return self._messages(entry)
        messages = self.kept(entry.seq)
        if messages is None:
            messages = self._messages(entry)
            self.keep(entry.seq, messages)
        return messages

    def _messages(self, entry: Entry) -> Sequence[str]:
        frame = entry.frame
        if frame.kind is Kind.UPDATE:
            if frame.method == UPDATE and is_plain(
                frame.body
            ):  # by far the most: nothing of it is taken apart
                text = str(frame.body, "utf-8", "replace")
                return (f"{self._update_head}{entry.seq}}}}},{text[1:]}}}",)
            return self._other_update(entry)
        if frame.kind is Kind.REQUEST:
            return (compose_request(frame.ref, frame.method, self._params(entry, frame.body)),)
        if frame.kind is Kind.PROMPT:
            return self._said_by_people(entry)
        return ()

    def _other_update(self, entry: Entry) -> Sequence[str]:
        _, body, _, method, _ = entry.frame
        if method == CANCEL_REQUEST:
            return ()  # of a question, which the relay closes for everybody
        return (compose_notification(method, self._params(entry, body)),)

    def _said_by_people(self, entry: Entry) -> Sequence[str]:
        try:
            blocks = _decode_prompt(entry.frame.body).prompt
        except msgspec.MsgspecError:
            return ()  # the agent will say what it thinks of it
        return [
            compose_notification(
                UPDATE,
                self._params(
                    entry, b'{"update":{"sessionUpdate":"user_message_chunk","content":%b}}' % bytes(block)
                ),
            )
            for block in blocks
        ]

    def question(self, entry: Entry) -> str:
        """Return what an aware client is told of a question that it may not answer."""
        frame = entry.frame
        body = b'{"requestId":%b,"method":%b,"params":%b,"answerable":false}'
        return self._extra(
            "question", entry, body % (quote(frame.ref), quote(frame.method), frame.body or b"null")
        )

    def cancellation(self, entry: Entry) -> str:
        """Return what takes back the question that a DECISION has answered."""
        body = b'{"requestId":%b}' % quote(entry.frame.ref)
        return compose_notification(CANCEL_REQUEST, spliced(body, b'{"seq":%d}' % entry.seq))

    # ------------------------------------------------------------ for aware ones besides

    def gap(self, first: int, last: int) -> str:
        """Return what is said of entries that are not kept any more."""
        return self._told("gap", last, b'{"from":%d,"to":%d}' % (first, last))

    def caught_up(self, seq: int) -> str:
        """Return what is said once the past was told, where what has asked for it cannot be answered yet."""
        return self._told("caught_up", seq, b"{}")

    def epoch_changed(self, epoch: str) -> str:
        """Return what is said before a past that is numbered otherwise than the client thinks."""
        return self._told("epoch_changed", 0, b'{"epoch":%b}' % quote(epoch))

    async def extras(self, entry: Entry) -> Sequence[str]:
        """Return what clients that know relaykit are told of an entry besides.

        :raises JournalError: a question was closed, and it cannot be read by whom.
        """
        frame = entry.frame
        ref = quote(frame.ref)
        if frame.kind is Kind.PROMPT:
            return (self._extra("turn_started", entry, b'{"turn":%b}' % ref),)
        if frame.kind is Kind.TURN_END:
            how = b"error" if frame.failed else b"result"
            body = b'{"turn":%b,"%b":%b}' % (ref, how, self.outcome(entry))
            return (self._extra("turn_ended", entry, body),)
        if frame.kind is Kind.DECISION:
            decider = await self._deciders.find(entry)
            client = b',"client":' + quote(decider.client_id) if decider.client_id else b""
            body = b'{"requestId":%b,"by":%b%b}' % (ref, quote(decider.by), client)
            return (self._extra("question_closed", entry, body),)
        revived = frame.method == ENDED and entry.seq <= self._live.inherited
        if frame.kind is Kind.NOTICE and frame.method in _TOLD and not revived:
            return (self._extra(_TOLD[frame.method], entry, frame.body),)
        return ()

    def _extra(self, what: str, entry: Entry, body: bytes) -> str:
        return self._told(what, entry.seq, body)

    def _told(self, what: str, seq: int, body: bytes) -> str:
        params = spliced(body, b'{"seq":%d}' % seq, first=self._address)
        return compose_notification(f"_relaykit/{what}", params)

    # ------------------------------------------------------------ for who has asked

    def answer(self, raw_id: bytes, entry: Entry, *, seq: int) -> str:
        """Return the answer to a prompt or a call.

        :param entry: its TURN_END or its RESULT.
        """
        if entry.frame.failed:
            return compose_error(raw_id, self.outcome(entry))
        turn = b',"turn":' + quote(entry.frame.ref) if entry.frame.kind is Kind.TURN_END else b""
        return compose_result(raw_id, spliced(entry.frame.body or b"null", b'{"seq":%d%b}' % (seq, turn)))

    def outcome(self, entry: Entry) -> bytes:
        """Return a raw result, or a raw error; one that wants a login names the command."""
        body = entry.frame.body or b"null"
        if not entry.frame.failed:
            return body
        try:
            error = _decode_error(body)
        except (msgspec.MsgspecError, RecursionError):
            return body
        if error.code != LOGIN_REQUIRED or entry.frame.kind is not Kind.TURN_END:
            return body
        spec = self._live.spec
        message = str(LoginRequired(error.message, agent=spec.name, login=spec.login))
        return object_of({**(members_of(body) or {}), "message": message})

    def _params(self, entry: Entry, body: bytes) -> bytes:
        return spliced(body, b'{"seq":%d}' % entry.seq, first=self._address)
