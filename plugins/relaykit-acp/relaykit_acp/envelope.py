"""JSON-RPC on the hot path: what a line is, and its raw parts.

The bodies of messages are never parsed into objects and written again: they are cut out of the line and
pasted into another, so that what relaykit does not know survives byte for byte.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
LOGIN_REQUIRED = -32000

# Where the session id stands first, as most agents write it, it is cut out without a look at the rest. Safe
# only because the JSON is known to be valid.
_FIRST = re.compile(rb'\s*\{(\s*)"sessionId"\s*:\s*"[^"\\]*"\s*,?')
_MEMBER = re.compile(rb'"sessionId"\s*:\s*"[^"\\]*"\s*(,?)')
_KEY = b'"sessionId"'

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)
_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: good
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # one half of a pair
    rb"|\\."  # any other escape, so that an escaped backslash is not taken for the start of one
)


class NotJson(ValueError):
    """The line is no JSON: a banner, a stray print."""


class NotAMessage(ValueError):
    """The line is JSON, but no JSON-RPC message that can be acted on.

    :param raw_id: the raw id to answer, where the line expects an answer; ``null`` for a batch.
    :param answers: the raw id of the request that the line tried to answer.
    """

    def __init__(self, message: str, *, raw_id: bytes | None = None, answers: bytes | None = None) -> None:
        super().__init__(message)
        self.raw_id = raw_id
        self.answers = answers


class Message(msgspec.Struct, gc=False):
    """One JSON-RPC message. What is absent is empty: raw parts are slices of the line, without a copy."""

    id: msgspec.Raw = msgspec.Raw()
    method: str = ""
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_decode_fast = msgspec.json.Decoder(Message).decode


def decode(line: bytes) -> Message:
    """Return the message that a line holds.

    Half surrogate pairs (a text that was cut inside an emoji) and invalid UTF-8 become U+FFFD.

    :raises NotJson: it holds no JSON, or nests too deeply to be looked at.
    :raises NotAMessage: it holds JSON that is no message.
    """
    try:
        message = _decode_fast(line)
    except (msgspec.MsgspecError, RecursionError):
        message = _decode_slowly(line)
    else:
        # msgspec does not look at the bytes of the strings that it skips.
        if not line.isascii() and not _is_utf8(line):
            message = _decode_slowly(line)
    if not message.method and not message.id:
        raise NotAMessage("it has neither a method nor an id")
    return message


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode_slowly(line: bytes) -> Message:
    line = line.decode(errors="replace").encode()
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    if isinstance(value, list):
        raise NotAMessage("batches are not supported", raw_id=b"null")
    if not isinstance(value, dict):
        raise NotJson("it is no object")
    try:
        return _decode_fast(_SURROGATE.sub(_mend_surrogate, line))
    except (msgspec.MsgspecError, RecursionError) as error:
        raw_id = _raw_id(value)
        if raw_id is not None and ("result" in value or "error" in value):
            raise NotAMessage(str(error), answers=raw_id) from error
        raise NotAMessage(str(error), raw_id=raw_id) from error


def _mend_surrogate(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match[1] else match[0]


def _raw_id(value: dict[str, Any]) -> bytes | None:
    found = value.get("id")
    if isinstance(found, str | int) and not isinstance(found, bool):
        return json.dumps(found).encode()
    return None


# ---------------------------------------------------------------- the session id


def strip_session_id(params: bytes | msgspec.Raw) -> bytes:
    """Return an object's raw JSON less its ``sessionId``, and all else as it was.

    :param params: valid JSON; what is no object, or has no such member, comes back as it is.
    """
    if first := _FIRST.match(params):
        return b"{" + first[1] + memoryview(params)[first.end() :]
    raw = bytes(params)
    if not _has_session_id(raw):
        return raw
    place = raw.find(_KEY)
    # Where there is one such text and no escape, that text can only be the key; else it takes a walk.
    alone = b"\\u" not in raw and raw.find(_KEY, place + 1) < 0
    if not alone or not (member := _MEMBER.match(raw, place)):
        return _strip_by_walking(raw)
    if member[1]:
        return raw[:place] + raw[member.end() :]
    return raw[:place].rstrip()[:-1] + raw[member.end() :]


class _Addressed(msgspec.Struct, gc=False):
    session_id: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="sessionId")


_decode_addressed = msgspec.json.Decoder(_Addressed).decode


def _has_session_id(raw: bytes) -> bool:
    try:
        return bool(_decode_addressed(raw).session_id)
    except (msgspec.MsgspecError, RecursionError):
        return False


def _strip_by_walking(raw: bytes) -> bytes:
    members = _top_level_members(raw)
    keep = [member for key, member in members if key != "sessionId"]
    if len(keep) == len(members):
        return raw
    return b"{" + b",".join(keep) + b"}"


def _top_level_members(raw: bytes) -> list[tuple[str, bytes]]:
    """Cut an object into its members, each with the white space around it; no object: none."""
    if not raw.lstrip().startswith(b"{"):
        return []
    members: list[tuple[str, bytes]] = []
    depth = 0
    start = 0
    key: str | None = None
    for token in _TOKEN.finditer(raw):
        what = token[0]
        if what in {b"{", b"["}:
            depth += 1
            if depth == 1:
                start = token.end()
        elif what in {b"}", b"]"}:
            depth -= 1
        elif depth == 1 and key is None and what[:1] == b'"':
            key = json.loads(what)
        if key is not None and (depth == 0 or (depth == 1 and what == b",")):
            members.append((key, raw[start : token.start()]))
            start = token.end()
            key = None
    return members


def splice_session_id(session_id: bytes, body: bytes) -> bytes:
    """Return the raw JSON of `body` with the session id as its first member, on one line.

    :param session_id: raw JSON, quotes included.
    :param body: the raw JSON of an object; empty means none. A ``sessionId`` of its own is taken out: no
        client addresses another session of the agent's.
    :raises ValueError: it is no JSON object.
    """
    rest = one_line(body).strip()
    if _has_session_id(rest):
        rest = _strip_by_walking(rest)
    if not rest:
        return b'{"sessionId":' + session_id + b"}"
    if not rest.startswith(b"{"):
        raise ValueError("the body is not a JSON object")
    inside = rest[1:].lstrip()
    return b'{"sessionId":' + session_id + (b"" if inside == b"}" else b",") + inside


_check = msgspec.json.Decoder(msgspec.Raw).decode


def one_line(body: bytes) -> bytes:
    """Return raw JSON without line ends: outside strings they mean nothing, inside they cannot be.

    :raises ValueError: it is not JSON, and could break out of the message that it is put into.
    """
    if body:
        try:
            _check(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"the body is not JSON: {error}") from error
    return body.replace(b"\n", b" ").replace(b"\r", b" ")


# ---------------------------------------------------------------- lines to send


def request(number: int, method: str, params: bytes) -> bytes:
    """Return the line of a request; `params` are raw and on one line."""
    return b'{"jsonrpc":"2.0","id":%d,"method":%b,"params":%b}\n' % (number, _quote(method), params)


def notification(method: str, params: bytes) -> bytes:
    """Return the line of a notification."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}\n' % (_quote(method), params)


def answer(raw_id: bytes, body: bytes, *, failed: bool) -> bytes:
    """Return the line that answers a request: with a result, or with an error object."""
    key = b"error" if failed else b"result"
    return b'{"jsonrpc":"2.0","id":%b,"%b":%b}\n' % (raw_id, key, body or b"null")


def error_object(code: int, message: str) -> bytes:
    """Return the raw JSON of an error object."""
    return msgspec.json.encode({"code": code, "message": message})


class _ErrorCode(msgspec.Struct):
    code: int = 0


def error_code(body: bytes) -> int:
    """Return the code of a raw error object; 0 if it has none."""
    try:
        return msgspec.json.decode(body, type=_ErrorCode).code
    except (msgspec.MsgspecError, RecursionError):
        return 0


def _quote(text: str) -> bytes:
    return msgspec.json.encode(text)
