"""Entries as messages of the relay protocol: made once, for all clients that follow a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from relaykit.conversation import Entry, Kind
from relaykit.errors import LoginRequired
from relaykit.relay import LiveSession
from relaykit.relay.deciders import Decider
from relaykit.relay.notices import ACTIVE, AGENT_CRASHED, ASLEEP, AWAKE, ENDED, TERMINATING, WAKE_FAILED
from relaykit.session import Cause
from relaykit_gateway.answers import read_answer
from relaykit_gateway.codes import Code
from relaykit_gateway.rendering import Rendering
from relaykit_gateway.wire import VERSION, compose, compose_error, raw_json, timestamp

PERMISSION = "session/request_permission"
UPDATE = "session/update"

_LOGIN_REQUIRED = -32000
_RESTS = frozenset({AGENT_CRASHED, ASLEEP, AWAKE, WAKE_FAILED})


class _UpdateParams(msgspec.Struct):
    update: msgspec.Raw


class _PromptParams(msgspec.Struct):
    prompt: list[msgspec.Raw]


class _PermissionParams(msgspec.Struct, rename="camel"):
    tool_call: msgspec.Raw
    options: msgspec.Raw


class _Outcome(msgspec.Struct, rename="camel"):
    outcome: str
    option_id: str | None = None


class _Decision(msgspec.Struct):
    outcome: _Outcome


class _TurnResult(msgspec.Struct, rename="camel"):
    stop_reason: str


class _RpcError(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Active(msgspec.Struct, rename="camel"):
    worktree_dir: str


class _Rest(msgspec.Struct):
    reason: str


class _Ending(msgspec.Struct):
    cause: str
    reason: str
    cleanup: msgspec.Raw = msgspec.Raw(b"[]")


_update_params = msgspec.json.Decoder(_UpdateParams).decode


class Renderer(Rendering):
    """Writes the messages of one session.

    What the agent said is spliced in as it came: only what a message is made of is looked at, and nothing
    of it is written anew.
    """

    def __init__(self, live: LiveSession) -> None:
        super().__init__()
        self._live = live
        session_id = raw_json(live.id).decode()
        self._update_head = f'{{"version":"{VERSION}","type":"agent:update","sessionId":{session_id},"seq":'

    @property
    def inherited(self) -> int:
        """The newest entry of what the session was before it was revived; 0 if it was not."""
        return self._live.inherited

    async def render(self, entry: Entry) -> Sequence[str]:
        """Return the messages that say this entry: usually one; none for what clients do not hear of.

        :raises JournalError: a turn ended, or a question was answered, and what belongs to it cannot be read.
        """
        messages = self.render_now(entry)
        if messages is None:
            if entry.frame.kind is Kind.TURN_END:
                messages = (await self._turn_end(entry),)
            else:
                messages = (self._decision(entry, await self._live.asking.deciders.find(entry)),)
            self.keep(entry.seq, messages)
        return messages

    def render_now(self, entry: Entry) -> Sequence[str] | None:
        """Return the same without waiting, or None if it takes some reading."""
        cached = self.kept(entry.seq)
        if cached is not None:
            return cached
        kind = entry.frame.kind
        if kind is Kind.TURN_END or kind is Kind.DECISION:
            return None
        messages = (self._update(entry),) if kind is Kind.UPDATE else self._rest(entry)
        self.keep(entry.seq, messages)
        return messages

    # ------------------------------------------------------------ what the agent said

    def _update(self, entry: Entry) -> str:
        frame = entry.frame
        try:
            if frame.method == UPDATE:
                return self._update_message(entry.seq, _update_params(frame.body).update)
        except msgspec.MsgspecError:
            pass  # it lacks what makes it an update, so it is shown as the notification that it is
        return self._message("agent:notification", entry, method=frame.method, params=_raw(frame.body))

    def _update_message(self, seq: int, update: msgspec.Raw) -> str:
        return f'{self._update_head}{seq},"update":{str(update, "utf-8", "replace")}}}'

    async def _turn_end(self, entry: Entry) -> str:
        frame = entry.frame
        if frame.failed:
            return self._error(Code.AGENT_FAILED, self._failure(frame.body), entry)
        answer = await read_answer(self._live.conversation, entry)
        truncated = {"contentTruncated": True} if answer.truncated else {}
        return self._message(
            "agent:response",
            entry,
            content=answer.text,
            **truncated,
            stopReason=_decode(frame.body, _TurnResult, _TurnResult("end_turn")).stop_reason,
            timestamp=timestamp(entry.at),
        )

    def _failure(self, body: bytes) -> str:
        error = _decode(body, _RpcError, _RpcError())
        message = error.message or "the agent failed, and did not say why"
        if error.code == _LOGIN_REQUIRED:
            spec = self._live.spec
            return str(LoginRequired(message, agent=spec.name, login=spec.login))
        return message

    def unanswerable(self, entry: Entry) -> str:
        """Return the message that says a question to who may not answer it."""
        return self._request(entry, answerable=False)

    def _request(self, entry: Entry, **more: bool) -> str:
        frame = entry.frame
        try:
            if frame.method == PERMISSION:
                params = msgspec.json.decode(frame.body, type=_PermissionParams)
                return self._message(
                    "permission:request",
                    entry,
                    requestId=frame.ref,
                    toolCall=params.tool_call,
                    options=params.options,
                    **more,
                )
        except msgspec.MsgspecError:
            pass  # as above
        return self._message(
            "agent:request", entry, requestId=frame.ref, method=frame.method, params=_raw(frame.body), **more
        )

    # ------------------------------------------------------------ what was said to it, and of it

    def _rest(self, entry: Entry) -> Sequence[str]:
        frame = entry.frame
        if frame.kind is Kind.PROMPT:
            return self._prompt(entry)
        if frame.kind is Kind.REQUEST:
            return (self._request(entry),)
        if frame.kind is Kind.NOTICE:
            return self._notice(entry)
        return ()  # cancelling shows in how the turn ends; calls and results belong to who made them

    def _prompt(self, entry: Entry) -> Sequence[str]:
        blocks = _decode(entry.frame.body, _PromptParams, _PromptParams([])).prompt
        return tuple(
            self._update_message(
                entry.seq,
                msgspec.Raw(b'{"sessionUpdate":"user_message_chunk","content":' + bytes(block) + b"}"),
            )
            for block in blocks
        )

    def _decision(self, entry: Entry, decider: Decider) -> str:
        frame = entry.frame
        decision = _decode(frame.body, _Decision, None)
        what: dict[str, Any]
        if decision is None:
            what = {"result": _raw(frame.body)}
        elif decision.outcome.option_id is not None:
            what = {"optionId": decision.outcome.option_id}
        else:
            what = {"outcome": decision.outcome.outcome}
        if decider.client_id:
            what["client"] = decider.client_id
        return self._message("permission:resolved", entry, requestId=frame.ref, **what, by=decider.by)

    def _notice(self, entry: Entry) -> Sequence[str]:
        frame = entry.frame
        at = timestamp(entry.at)
        if frame.method in {TERMINATING, ENDED} and entry.seq <= self._live.inherited:
            return ()  # it has been revived since
        if frame.method == ACTIVE:
            active = msgspec.json.decode(frame.body, type=_Active)
            ready = self._message("session:ready", entry, worktreeDir=active.worktree_dir, timestamp=at)
            return (ready,)
        if frame.method in _RESTS:
            return (self._rest_notice(entry),)
        if frame.method == TERMINATING:
            ending = msgspec.json.decode(frame.body, type=_Ending)
            if ending.cause == Cause.SPAWN_FAILED:
                return (self._error(Code.SPAWN_FAILED, ending.reason, entry),)
        if frame.method == ENDED:
            ending = msgspec.json.decode(frame.body, type=_Ending)
            terminated = self._message(
                "session:terminated",
                entry,
                reason=ending.reason,
                cause=ending.cause,
                cleanup=ending.cleanup,
                timestamp=at,
            )
            return (terminated,)
        return ()

    def _rest_notice(self, entry: Entry) -> str:
        at = timestamp(entry.at)
        if entry.frame.method == AWAKE:
            return self._message("session:awake", entry, timestamp=at)
        reason = msgspec.json.decode(entry.frame.body, type=_Rest).reason
        if entry.frame.method == WAKE_FAILED:
            return self._error(Code.WAKE_FAILED, reason, entry)
        word = "session:agent_crashed" if entry.frame.method == AGENT_CRASHED else "session:asleep"
        return self._message(word, entry, reason=reason, timestamp=at)

    # ------------------------------------------------------------ envelopes

    def _message(self, type_: str, entry: Entry, /, **fields: Any) -> str:
        return compose(type_, sessionId=self._live.id, seq=entry.seq, **fields)

    def _error(self, code: Code, message: str, entry: Entry) -> str:
        return compose_error(code, message, sessionId=self._live.id, seq=entry.seq)


def _raw(body: bytes) -> msgspec.Raw:
    return msgspec.Raw(body or b"null")


def _decode(body: bytes, shape: type[Any], default: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError:
        return default
