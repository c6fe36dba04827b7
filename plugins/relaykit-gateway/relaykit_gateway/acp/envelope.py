"""JSON-RPC 2.0: reading what clients send, and writing what they get."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from relaykit_gateway.acp.errors import INVALID_REQUEST, PARSE_ERROR, RpcError

MAX_ID_CHARACTERS = 1024
"""As the protocol's reference server has it."""

_NULL = b"null"


class Malformed(Exception):
    """A client's frame is no message that can be acted on.

    :param error: what to answer.
    :param raw_id: to whom.
    """

    def __init__(self, error: RpcError, raw_id: bytes = _NULL) -> None:
        super().__init__(str(error))
        self.error = error
        self.raw_id = raw_id


class IdTooLong(Exception):
    """The id of a client's request is longer than `MAX_ID_CHARACTERS`."""


class Message(msgspec.Struct, gc=False):
    """One message of a client. What is absent is empty; raw parts are as they came."""

    id: msgspec.Raw = msgspec.Raw()
    method: str = ""
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(Message).decode


def read(text: str) -> Message:
    """Return the message that a frame holds.

    :raises Malformed: it holds none.
    :raises IdTooLong: it does, but with such an id.
    """
    try:
        message = _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _malformed(text, error) from error
    if message.id:
        _check_id(bytes(message.id))
    if not message.method and not (message.id and (message.result or message.error)):
        raise Malformed(
            RpcError(INVALID_REQUEST, "a message has a `method`, or an `id` with a `result` or an `error`"),
            bytes(message.id) or _NULL,
        )
    return message


def key_of(raw_id: bytes | msgspec.Raw) -> object:
    """Return an id as it may be compared: text and numbers differ, ways of writing them do not."""
    return msgspec.json.decode(raw_id)


def _malformed(text: str, error: Exception) -> Malformed:
    """Say what is wrong with it, to whoever asked if that can be told."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Malformed(RpcError(PARSE_ERROR, f"not valid JSON: {error}"))
    if isinstance(value, list):
        return Malformed(RpcError(INVALID_REQUEST, "batches are not supported: send one message a frame"))
    if not isinstance(value, dict):
        return Malformed(RpcError(INVALID_REQUEST, "a message is a JSON object"))
    return Malformed(RpcError(INVALID_REQUEST, f"not a JSON-RPC message: {error}"), _raw_id(value))


def _raw_id(value: dict[str, Any]) -> bytes:
    found = value.get("id")
    if isinstance(found, int | str) and not isinstance(found, bool):
        raw_id = json.dumps(found).encode()
        _check_id(raw_id)
        return raw_id
    return _NULL


def _check_id(raw_id: bytes) -> None:
    """Let through what JSON-RPC has as ids of requests.

    :raises Malformed: it is neither text nor a number.
    :raises IdTooLong: it is too long.
    """
    if raw_id[:1] == b'"':
        length = (
            len(raw_id) if len(raw_id) <= MAX_ID_CHARACTERS else len(msgspec.json.decode(raw_id, type=str))
        )
    elif raw_id[:1] in b"-0123456789":
        length = len(raw_id)
    else:
        raise Malformed(RpcError(INVALID_REQUEST, "an `id` is text or a number"))
    if length > MAX_ID_CHARACTERS:
        raise IdTooLong


# ---------------------------------------------------------------- what clients get


def compose_result(raw_id: bytes, result: bytes) -> str:
    """Return the answer to a request; `result` is raw JSON, nothing means null."""
    return (b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (raw_id, result or _NULL)).decode("utf-8", "replace")


def compose_error(raw_id: bytes, error: bytes) -> str:
    """Return the answer to a request that failed; `error` is a raw error object."""
    return (b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (raw_id, error)).decode("utf-8", "replace")


def compose_request(ref: str, method: str, params: bytes) -> str:
    """Return a request of ours; `params` are raw JSON."""
    head = b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":' % (msgspec.json.encode(ref), quote(method))
    return (b"%b%b}" % (head, params)).decode("utf-8", "replace")


def compose_notification(method: str, params: bytes) -> str:
    """Return a notification; `params` are raw JSON."""
    return (b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (quote(method), params)).decode("utf-8", "replace")


def quote(text: str) -> bytes:
    """Return text as JSON."""
    return msgspec.json.encode(text)
