"""AcpFollower: one client of ``/acp`` that follows one session."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from relaykit.conversation import Batch, Cursor, Entry, Kind
from relaykit.relay import LiveSession
from relaykit.relay.access import Role
from relaykit.relay.notices import AWAKE, ENDED, TERMINATING, WAKE_FAILED
from relaykit.session import Cause, Session
from relaykit_gateway.acp.envelope import compose_error, compose_notification, compose_result, quote
from relaykit_gateway.acp.errors import INTERNAL_ERROR, RpcError, rpc_error_of
from relaykit_gateway.acp.pending import Pending
from relaykit_gateway.acp.render import AcpRenderer
from relaykit_gateway.acp.splice import object_of, spliced
from relaykit_gateway.codes import Code
from relaykit_gateway.following import Following
from relaykit_gateway.judged import is_judged
from relaykit_gateway.queue import view_queue
from relaykit_gateway.rendering import PerSession

if TYPE_CHECKING:
    from relaykit_gateway.acp.connection import AcpConnection


class _Ending(msgspec.Struct):
    cause: str
    reason: str


class AcpFollower(Following[AcpRenderer]):
    """Sends a session's messages to a client, and the answers to its requests in their places among them.

    What lies before the head at its beginning is the past: it is replayed, then the session is open to the
    client, and then comes what is said. Questions of the past are put once it is open, if they still are.

    :param session: as it is when the client begins to follow.
    :param pending: the client's requests about this session.
    """

    protocol = "acp"

    def __init__(
        self, connection: AcpConnection, session: Session, live: LiveSession, pending: Pending
    ) -> None:
        super().__init__(connection, session.id)
        self.pending = pending
        self.sent = 0
        """The newest seq that was sent to the client, or is being sent."""
        self._connection = connection
        self._session = session
        self._live = live
        self._observes = connection.access.role is Role.OBSERVER
        self._past_ends: int | None = None  # None once the session is open to the client
        self._asked_before: dict[str, Entry] = {}  # questions of the past, by ref
        self._never_put: set[str] = set()  # refs of questions that were answered before any person saw them
        self._told_end = False
        self._epoch = ""
        self._gaps: list[tuple[int, int]] = []  # in what the opening has asked for

    @property
    def is_open(self) -> bool:
        """The past is over: what comes is what is said now."""
        return self._past_ends is None

    def _is_past(self, entry: Entry) -> bool:
        return self._past_ends is not None and entry.seq <= self._past_ends

    async def settle(self, end: Entry) -> None:
        """Answer who waits for a turn that was taken back: its end is not in the transcript.

        :raises ClientGone: there is nobody to hear it.
        """
        raw_ids = self.pending.take_answered(end.frame.ref)
        await self._answer_all(raw_ids, end)

    async def answer_late(self, end: Entry, raw_id: bytes) -> None:
        """Answer a prompt whose turn is long over.

        :raises ClientGone: there is nobody to hear it.
        """
        await self._answer_all([raw_id], end)

    async def fail_all(self, error: RpcError) -> None:
        """Answer with an error whatever waits.

        :raises ClientGone: there is nobody to hear it.
        """
        raw_ids = self.pending.take_all()
        async with self._connection.sending:
            await self._fail(raw_ids, error)

    # ------------------------------------------------------------ following

    def _renderers(self) -> PerSession[AcpRenderer]:
        return self._connection.gateway.acp_renderers

    async def _begin(self, live: LiveSession, cursor: Cursor) -> None:
        self._epoch = cursor.epoch
        self._past_ends = live.conversation.head
        self.sent = cursor.position
        opening = self.pending.opening
        if opening is not None and opening.creates:
            self._past_ends = 0  # a new session has none: whatever its agent says is said now
        if self.epoch_changed and self._connection.aware:
            with self._renderers().of(live) as renderer:
                await self._connection.send_text(renderer.epoch_changed(cursor.epoch))

    async def _send(self, batch: Batch, renderer: AcpRenderer, cursor: Cursor) -> None:
        if batch.gap:
            await self._tell_gap(batch.gap, renderer)
        entries, at = batch.entries, 0
        while (at := await self._send_together(entries, at, self._update_messages(renderer))) < len(entries):
            await self._send_alone(entries[at], batch, renderer)
            at += 1
        if batch.caught_up and self._past_ends is not None:
            self._past_ends = cursor.position
            await self._open_up(renderer)
            if self.pending.opening is not None and self._connection.aware:
                await self._say(renderer.caught_up(cursor.position))  # the answer waits for the agent

    def _update_messages(self, renderer: AcpRenderer) -> Callable[[Entry], Sequence[str] | None]:
        """Return what tells what an update says: by far the most are these. None: it is none, or opens the session."""
        last = math.inf if self._past_ends is None else self._past_ends
        update = Kind.UPDATE

        def messages(entry: Entry) -> Sequence[str] | None:
            if entry.frame.kind is not update or entry.seq > last:
                return None
            self.sent = entry.seq
            return renderer.messages(entry)

        return messages

    async def _send_alone(self, entry: Entry, batch: Batch, renderer: AcpRenderer) -> None:
        opens = self._past_ends is not None and not self._is_past(entry)
        # That the agent is awake is told before the answer: whoever has it hears of no sleep any more.
        told_first = entry.frame.kind is Kind.NOTICE and entry.frame.method == AWAKE
        if opens and not told_first:
            await self._open_up(renderer)
        self.sent = entry.seq
        if entry.frame.kind is Kind.UPDATE:
            await self._say(*renderer.messages(entry))
        elif self.is_open and entry.frame.kind is Kind.REQUEST and is_judged(entry, batch.entries):
            self._never_put.add(entry.frame.ref)
        else:
            await self._tell(entry, renderer)
        self.told = entry.seq
        if opens and told_first:
            await self._open_up(renderer)

    async def _tell_gap(self, gap: tuple[int, int], renderer: AcpRenderer) -> None:
        self.sent = gap[1]
        if not self.is_open:
            self._gaps.append(gap)
        if self._connection.aware:
            await self._say(renderer.gap(*gap))
        self.told = gap[1]

    @property
    def _hears_queue(self) -> bool:
        return self.is_open and self._connection.aware

    async def _send_queue(self, live: LiveSession) -> None:
        body = {
            "sessionId": self.session_id,
            "_meta": {"relaykit": {"seq": self.sent}},
            **view_queue(live, self._connection.id),
        }
        await self._say(compose_notification("_relaykit/queue", object_of(body)))

    async def _tell(self, entry: Entry, renderer: AcpRenderer) -> None:
        """Send what is no update to whom it concerns."""
        ref = entry.frame.ref
        match entry.frame.kind:
            case Kind.PROMPT:
                # What one says oneself does not come back.
                if self._is_past(entry) or ref not in self.pending.turns:
                    await self._say(*renderer.messages(entry))
                elif not self._connection.hears_own_turns:
                    return
            case Kind.REQUEST | Kind.DECISION:
                if not await self._ask(entry, renderer):
                    return
            case Kind.TURN_END | Kind.RESULT:
                if await self._answer(entry, renderer):
                    return
            case Kind.NOTICE:
                await self._note(entry)
        if self._connection.aware:
            await self._say(*await renderer.extras(entry))

    async def _ask(self, entry: Entry, renderer: AcpRenderer) -> bool:
        """Put a question to the client, or take it back; False if this is all of the past, and stays there."""
        ref = entry.frame.ref
        if entry.frame.kind is Kind.REQUEST:
            if self.is_open:
                await self._put(entry, renderer)
            else:
                self._asked_before[ref] = entry
            return self.is_open
        answered_here = ref in self.pending.answered
        self.pending.answered.discard(ref)
        if self._asked_before.pop(ref, None):
            return False
        if ref in self._never_put:
            self._never_put.remove(ref)
        elif not answered_here and not self._observes:
            await self._say(renderer.cancellation(entry))
        return True

    async def _put(self, entry: Entry, renderer: AcpRenderer) -> None:
        """Put a question. Who only watches is not asked: it hears of it if it knows how to."""
        if not self._observes:
            await self._say(*renderer.messages(entry))
        elif self._connection.aware:
            await self._say(renderer.question(entry))

    async def _answer(self, entry: Entry, renderer: AcpRenderer) -> bool:
        """Answer who waits for this end, or for this result; False if nobody does."""
        raw_ids = self.pending.take_answered(entry.frame.ref)
        await self._say(*(renderer.answer(raw_id, entry, seq=entry.seq) for raw_id in raw_ids))
        return bool(raw_ids)

    async def _note(self, entry: Entry) -> None:
        word = entry.frame.method
        if word == WAKE_FAILED:
            await self._wake_failed()
        elif (
            word in {TERMINATING, ENDED} and entry.seq > self._live.inherited
        ):  # else it has been revived since
            ending = msgspec.json.decode(entry.frame.body, type=_Ending)
            opening = self.pending.take_opening()
            if opening is not None:
                await self._fail([opening.raw_id], self._not_opened(ending))
            if word == ENDED:
                self._told_end = True
                await self._fail(self.pending.take_all(), _ended(ending.reason))

    async def _wake_failed(self) -> None:
        """Answer what waits for the agent, unless somebody has wanted it since: then that is what counts."""
        failure = self._live.rest.failure
        opening = self.pending.take_opening() if failure is not None else None
        if failure is not None and opening is not None:
            await self._fail([opening.raw_id], rpc_error_of(failure))

    # ------------------------------------------------------------ opening

    async def _open_up(self, renderer: AcpRenderer) -> None:
        """Answer what has opened the session, and put the questions that are open, once there is an agent."""
        live = self._live
        if not live.ready or live.is_falling_asleep:
            return
        self._past_ends = None
        opening = self.pending.take_opening()
        if opening is not None:
            session = await self._connection.relay.get(self.session_id) or self._session
            facts = {
                "role": session.agent_id,
                "agent": session.agent,
                "project": session.project,
                "cwd": session.worktree_dir,
                "epoch": self._epoch,
                "seq": self.sent,
                "turnRunning": live.conversation.running_turn or None,
                **self._what_differs(),
            }
            first = b'"sessionId":%b,' % quote(self.session_id) if opening.creates else b""
            result = spliced(object_of(live.opened), object_of(facts), first=first)
            await self._say(compose_result(opening.raw_id, result))
        for question in live.questions:
            entry = self._asked_before.pop(question.request.ref, None)
            if entry is None and 0 < question.seq <= self.sent:
                entry = Entry(question.seq, self._session.created_at, question.request)
            if entry is not None:
                await self._put(entry, renderer)

    def _what_differs(self) -> dict[str, object]:
        """Return in what the client did not get what it has asked for; nothing if it did."""
        differs: dict[str, object] = {"epochChanged": True} if self.epoch_changed else {}
        if self._gaps:
            differs["gaps"] = [{"from": first, "to": last} for first, last in self._gaps]
        return differs

    def _not_opened(self, ending: _Ending) -> RpcError:
        if self._live.spawn_error is not None:
            return rpc_error_of(self._live.spawn_error)
        if ending.cause == Cause.SPAWN_FAILED:
            return RpcError(INTERNAL_ERROR, ending.reason, Code.SPAWN_FAILED)
        return _ended(ending.reason)

    # ------------------------------------------------------------ the end

    async def _end(self) -> None:
        if self._live.leaving:
            return  # it goes on with the next relay, whom the client asks again
        reason = "its transcript does not tell how"
        await self.fail_all(_ended(reason))
        if not self._told_end and self._connection.aware:
            body = {
                "sessionId": self.session_id,
                "_meta": {"relaykit": {"seq": self.sent}},
                "cause": Cause.INTERNAL,
                "reason": reason,
                "cleanup": [],
            }
            await self._connection.send_text(compose_notification("_relaykit/session_ended", object_of(body)))

    async def _break_off(self, position: int) -> None:
        message = f"the transcript could not be read on: load the session again, after {position}"
        await self.fail_all(RpcError(INTERNAL_ERROR, message, Code.INTERNAL))

    # ------------------------------------------------------------ saying

    async def _say(self, *messages: str) -> None:
        if messages:
            await self._connection.send_texts(messages)

    async def _answer_all(self, raw_ids: Sequence[bytes], end: Entry) -> None:
        async with self._connection.sending:
            with self._renderers().of(self._live) as renderer:
                await self._say(*(renderer.answer(raw_id, end, seq=self.sent) for raw_id in raw_ids))

    async def _fail(self, raw_ids: Sequence[bytes], error: RpcError) -> None:
        await self._say(*(compose_error(raw_id, bytes(error)) for raw_id in raw_ids))


def _ended(reason: str) -> RpcError:
    return RpcError(INTERNAL_ERROR, f"the session has ended: {reason}", Code.SESSION_NOT_ACTIVE)
