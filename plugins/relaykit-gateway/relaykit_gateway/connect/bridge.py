"""Bridge: what becomes of every message between an editor and a relay. It does no input or output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from relaykit.ids import IdGenerator
from relaykit_gateway.connect.followed import Followed
from relaykit_gateway.connect.questions import Questions
from relaykit_gateway.connect.raw_json import dig, members, number_at, put, read_object, text_at
from relaykit_gateway.connect.unanswered import Said, Unanswered, error_answer, key_of

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message that a relay takes at ``/acp``."""

MAX_ID_CHARACTERS = 1024
"""The longest id of a request, as ACP's remote transport has it."""

_META = ("params", "_meta", "relaykit")
_AWARE = ("params", "clientCapabilities", "_meta", "relaykit")
# Of its own turns it knows that they begin: a message less, while the agent is already at work. What a new
# connection is told of the past does name them.
_AWARENESS = '{"ownTurns":false}'
# By far the most that comes, as our relay writes it. It need not be read to its end: it may be long.
_plain_update = re.compile(
    rb'\{"jsonrpc":"2\.0","method":"session/update","params":\{"sessionId":"([\w-]+)",'
    rb'"_meta":\{"relaykit":\{"seq":([0-9]{1,18})\}\},"update":\{"sessionUpdate":"([a-z_]+)"'
).match
_PARSE_ERROR, _INVALID_REQUEST = -32700, -32600


class Bridge:
    """The editor's one conversation with its agent, over as many connections to the relay as it takes.

    Whoever uses it reports what comes, in order; after each report it delivers what stands in `to_editor` and, on
    the connection that there is, `to_relay`, and empties both. For one thread; no method waits.

    What the relay has not answered is said again on the next connection: requests with their ids, prompts with
    their turns, by which the relay knows them again. Of what comes twice the editor gets one.
    """

    def __init__(self, ids: IdGenerator) -> None:
        self.to_relay: list[bytes] = []
        self.to_editor: list[bytes] = []
        self.ready = False
        """What was said before is settled or said again on this connection: the rest goes out as it comes."""
        self.objection = ""
        """Why the relay does not take us back: this connection is of no use."""
        self._ids = ids
        self._connected = False
        self._initialize: bytes | None = None
        self._editor_is_aware = False
        self._own_ids = f"relaykit-connect-{ids.new_id()}"  # no id of the editor's begins like ours
        self._asked_count = 0
        self._own_requests: dict[str, Callable[[Mapping[str, Any]], None]] = {}
        self._sessions: dict[str, Followed] = {}
        self._unanswered = Unanswered()
        self._questions = Questions(self.to_relay, self.to_editor)

    @property
    def settled(self) -> bool:
        """Whether this connection has taken over from the last one, or has nothing to take over."""
        return self.ready or (self._connected and self._initialize is None)

    # ------------------------------------------------------------ connections

    def connected(self) -> None:
        """Begin on a new connection: introduce the editor again."""
        self._connected, self.objection = True, ""
        pending = self._unanswered.first("initialize")
        if pending is not None:
            self._send(pending)
        elif self._initialize is not None:
            self._ask(self._initialize, self._introduced_again)

    def disconnected(self, refusal: str = "") -> None:
        """Note that the connection is lost, with what was on its way.

        :param refusal: the relay closed it because of what was said: that is answered with this error, and not
            said again.
        """
        self._connected = self.ready = False
        self.to_relay.clear()
        self._own_requests.clear()
        self._questions.disconnected()
        for followed in self._sessions.values():
            followed.disconnected()
        if refusal:
            if self._unanswered.first("initialize") is not None:
                self._initialize = None
            self.to_editor += self._unanswered.give_up(refusal, sent_only=True)
        self._unanswered.sent_none()

    def give_up(self, why: str) -> None:
        """Answer everything that is open with an error."""
        self.to_editor += self._unanswered.give_up(why)

    # ------------------------------------------------------------ from the editor

    def from_editor(self, line: bytes) -> None:
        """Take one message of the editor's."""
        message = read_object(line)
        method = "" if message is None else message.get("method", "")
        if message is None or not isinstance(method, str):
            self._unreadable(line)
        elif not method:
            self._questions.answer(key_of(message.get("id")), line)
        elif "id" in message:
            self._request(key_of(message["id"]), method, message, line)
        else:
            self._notify(method, message, line)

    def _unreadable(self, line: bytes) -> None:
        """Have the relay say what is wrong, unless it would break the connection: then say it here."""
        try:
            line.decode()
        except UnicodeDecodeError as error:
            self._refuse("null", _PARSE_ERROR, f"the message is not UTF-8: {error.reason}")
            return
        if len(line) > MAX_MESSAGE_BYTES:
            self._refuse("null", _INVALID_REQUEST, _too_long(line))
        elif self._initialize is None:
            self._refuse("null", _INVALID_REQUEST, _INITIALIZE_FIRST)
        else:
            self._say(Said(self._unanswered.next_key(), line))

    def _request(self, key: str, method: str, message: Mapping[str, Any], line: bytes) -> None:
        said = Said(key, line, method, text_at(message, "params", "sessionId"))
        if len(key) > MAX_ID_CHARACTERS:
            self._refuse("null", _INVALID_REQUEST, f"the id is longer than {MAX_ID_CHARACTERS} characters")
        elif self._initialize is None and method != "initialize":
            self._refuse(key, _INVALID_REQUEST, _INITIALIZE_FIRST)
        elif len(line) > MAX_MESSAGE_BYTES:
            self._refuse(key, _INVALID_REQUEST, _too_long(line))
        else:
            self._prepare(said, message)
            self._unanswered.add(said)
            if self.ready or (self._connected and said.text is self._initialize):
                self._send(said)

    def _prepare(self, said: Said, message: Mapping[str, Any]) -> None:
        """Add what makes the request one that can be said again."""
        said.cwd = text_at(message, "params", "cwd") or "/"
        if self._initialize is None:
            self._editor_is_aware = dig(message, *_AWARE) is not None
            if not self._editor_is_aware:
                said.text = put(said.text, _AWARE, _AWARENESS, decoded=message)
            self._initialize = said.text
        elif said.method == "initialize":
            said.method = ""  # the relay says that it comes too late
        elif said.method == "session/prompt":
            said.turn = text_at(message, *_META, "turn") or self._ids.new_id()
            said.text = put(said.text, (*_META, "turn"), json.dumps(said.turn), decoded=message)
            if said.session_id in self._sessions:
                self._sessions[said.session_id].turns.add(said.turn)
        elif said.opens:
            followed = self._sessions.setdefault(said.session_id, Followed(said.session_id))
            followed.start(number_at(message, *_META, "after"))

    def _notify(self, method: str, message: Mapping[str, Any], line: bytes) -> None:
        """Pass it on, and again on the next connection if what it is about is open then."""
        said = Said(self._unanswered.next_key(), line, method)
        if len(line) > MAX_MESSAGE_BYTES or self._initialize is None:
            return
        if method == "session/cancel":
            said.about = self._unanswered.prompts(text_at(message, "params", "sessionId"))
        elif method == "$/cancel_request":
            said.about = self._unanswered.among(key_of(dig(message, "params", "requestId")))
        self._say(said)

    def _say(self, said: Said) -> None:
        if said.about or not self.ready:
            self._unanswered.add(said)
        if self.ready:
            self._send(said)

    def _refuse(self, key: str, code: int, why: str) -> None:
        self.to_editor.append(error_answer(key, code, why))

    def _send(self, said: Said) -> None:
        said.sent = True
        self.to_relay.append(said.text)

    def _ask(self, request: bytes, then: Callable[[Mapping[str, Any]], None]) -> None:
        """Send a request of our own."""
        self._asked_count += 1
        key = json.dumps(f"{self._own_ids}-{self._asked_count}")
        self._own_requests[key] = then
        self.to_relay.append(put(request, ("id",), key))

    # ------------------------------------------------------------ from the relay

    def from_relay(self, text: bytes) -> None:
        """Take one message of the relay's."""
        plain = _plain_update(text)
        if plain is not None:
            session_id, seq, update = plain.groups()
            self._update(text, session_id.decode(), int(seq), block=update == b"user_message_chunk")
            return
        message = read_object(text)
        method = None if message is None else message.get("method")
        if message is None or (method is None and message.get("id") is None):
            self.to_editor.append(text)  # what the relay could not read has no id
        elif method is None:
            self._settle(key_of(message["id"]), message, text)
        elif "id" in message:
            self._asked(key_of(message["id"]), message, text)
        elif method == "$/cancel_request":
            self._questions.close(key_of(dig(message, "params", "requestId")), text)
        elif str(method).startswith("_relaykit/"):
            self._told(method.removeprefix("_relaykit/"), message.get("params"), text)
        else:
            params = message.get("params")
            block = dig(params, "update", "sessionUpdate") == "user_message_chunk"
            seq = number_at(params, "_meta", "relaykit", "seq")
            self._update(text, text_at(params, "sessionId"), seq, block=block)

    def _update(self, text: bytes, session_id: str, seq: int, *, block: bool) -> None:
        followed = self._sessions.get(session_id)
        if followed is None or not seq:
            self.to_editor.append(text)
            return
        if not block or seq > followed.seq + 1:
            self._release(followed)
        if followed.take(seq, block=block):
            (followed.held if block and followed.is_doubtful(seq) else self.to_editor).append(text)

    def _release(self, followed: Followed | None) -> None:
        """Pass on what was held, because something else has come."""
        if followed is not None and followed.held:
            self.to_editor += followed.held
            followed.held.clear()

    def _asked(self, key: str, message: Mapping[str, Any], text: bytes) -> None:
        session_id = text_at(message, "params", "sessionId")
        followed = self._sessions.get(session_id)
        self._release(followed)
        if followed is not None:
            # What lies before is over: else a question that is closed meanwhile would count as one never asked.
            followed.reach(number_at(message, *_META, "seq"))
        self._questions.ask(key, session_id, text)

    def _settle(self, key: str, message: Mapping[str, Any], text: bytes) -> None:
        """Pass on the first answer to a request, and learn from it."""
        ours = self._own_requests.pop(key, None)
        if ours is not None:
            ours(message)
            return
        said = self._unanswered.settle(key)
        if said is None:
            return
        self._release(self._sessions.get(said.session_id))
        self.to_editor.append(text)
        if said.method == "initialize":
            self._introduced(message)
        elif said.method == "session/new":
            session_id = text_at(message, "result", "sessionId")
            if session_id:
                self._sessions[session_id] = Followed(session_id)
                self._opened(session_id, said, message)
        elif said.opens:
            self._opened(said.session_id, said, message)
        elif said.turn:
            self._turn_ended(
                said.session_id, said.turn, number_at(message, "result", "_meta", "relaykit", "seq")
            )
        elif said.method == "session/close" and "result" in message:
            self._forget(said.session_id)

    def _introduced(self, message: Mapping[str, Any]) -> None:
        """Go on with the sessions, or, at the first time, begin."""
        if "error" in message:
            self._initialize = None
            return
        opening = self._unanswered.opening()
        for followed in self._sessions.values():
            if followed.session_id not in opening:
                followed.resume()
                resume = f'{{"jsonrpc":"2.0","method":"session/resume","params":{followed.resume_params()}}}'
                self._ask(resume.encode(), partial(self._resumed, followed))
        self._say_the_rest()

    def _introduced_again(self, answer: Mapping[str, Any]) -> None:
        if "error" in answer:
            self.objection = text_at(answer, "error", "message") or "`initialize` failed"
        else:
            self._introduced(answer)

    def _resumed(self, followed: Followed, answer: Mapping[str, Any]) -> None:
        self._release(followed)
        if text_at(answer, "error", "data", "relaykit", "code") in _SLEEPS_ON:
            followed.went_on(followed.epoch)  # the next prompt has the relay try again
        elif "error" in answer:
            self._forget(followed.session_id)  # whoever speaks to it hears why from the relay
        else:
            followed.went_on(text_at(answer, "result", "_meta", "relaykit", "epoch"))
        self._say_the_rest()

    def _say_the_rest(self) -> None:
        """Say what has no answer, once all sessions are up to date: no answer may overtake an update."""
        if self._own_requests:
            return
        self.ready = True
        for said in self._unanswered.to_send():
            followed = self._sessions.get(said.session_id)
            if said.opens and said.repeated and followed is not None and followed.replaying:
                said.text = put(said.text, (*_META, "after"), str(followed.seq))
                followed.go_on()
            self._send(said)

    def _opened(self, session_id: str, said: Said, answer: Mapping[str, Any]) -> None:
        followed = self._sessions.get(session_id)
        if followed is None or "error" in answer:
            self._forget(session_id)
            return
        followed.cwd = said.cwd
        followed.reach(number_at(answer, "result", "_meta", "relaykit", "seq"))
        followed.went_on(text_at(answer, "result", "_meta", "relaykit", "epoch"))

    # ------------------------------------------------------------ what the relay tells us alone

    def _told(self, what: str, params: Any, text: bytes) -> None:
        if self._editor_is_aware:
            self.to_editor.append(text)
        session_id, turn = text_at(params, "sessionId"), text_at(params, "turn")
        followed = self._sessions.get(session_id)
        seq = number_at(params, "_meta", "relaykit", "seq")
        if followed is not None and what == "turn_started":
            followed.turn_started(turn, seq)
        self._release(followed)
        if (
            followed is not None and what != "turn_started"
        ):  # that has the seq of a prompt that may still come
            followed.reach(number_at(params, "to") if what == "gap" else seq)
        if what == "turn_ended":
            said = self._unanswered.turn(turn)
            if said is not None:
                self._unanswered.settle(said.key)
                self.to_editor.append(_answer_of(said.key, text))
            self._turn_ended(session_id, turn, seq)
        elif what == "question_closed":
            self._questions.close(key_of(dig(params, "requestId")))
        elif what == "session_ended":
            self._forget(session_id)

    def _turn_ended(self, session_id: str, turn: str, seq: int) -> None:
        followed = self._sessions.get(session_id)
        if followed is not None and seq:
            followed.reach(seq)
            followed.turns.discard(turn)

    def _forget(self, session_id: str) -> None:
        """Follow a session no more. Its open requests get their answers from the relay."""
        self._sessions.pop(session_id, None)
        self._questions.close_all(session_id)


_SLEEPS_ON = frozenset({"SPAWN_FAILED", "AGENT_FAILED", "WAKE_FAILED"})
"""Why a session that was opened again has no agent now. One that has ended for it is told to have."""

_INITIALIZE_FIRST = "the first message must be the request `initialize`"


def _too_long(message: bytes) -> str:
    return f"the message has {len(message)} bytes: a relay takes {MAX_MESSAGE_BYTES}"


def _answer_of(key: str, told: bytes) -> bytes:
    """Return the answer to a prompt out of what the relay tells of its turn's end, byte for byte."""
    text = told.decode()
    params = members(text, members(text)["params"].start)
    name = "error" if "error" in params else "result"
    member = params[name]
    return f'{{"jsonrpc":"2.0","id":{key},"{name}":{text[member.start : member.end]}}}'.encode()
