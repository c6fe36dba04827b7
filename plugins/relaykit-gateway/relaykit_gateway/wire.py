"""Messages of the relay protocol, version 1.0: reading those of clients, and writing our own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from relaykit_gateway.codes import FATAL, Code

VERSION = "1.0"

T = TypeVar("T", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode


class BadMessage(Exception):
    """A client's message cannot be acted on. The text is for the client."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(text: str, *, max_bytes: int) -> dict[str, Any]:
    """Return a client's message: an object with a ``type`` and our version.

    :raises BadMessage: it is too long, no JSON, no object, lacks one of them, or is of another version.
    """
    if len(text) > max_bytes or (len(text) * 4 > max_bytes and len(text.encode()) > max_bytes):
        raise BadMessage(Code.MESSAGE_TOO_LARGE, f"the message is longer than {max_bytes} bytes")
    try:
        message = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadMessage(Code.INVALID_MESSAGE, f"not valid JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadMessage(Code.INVALID_MESSAGE, "a message is a JSON object")
    for field in ("version", "type"):
        if not isinstance(message.get(field), str):
            how = "must be a string" if field in message else "is missing"
            raise BadMessage(Code.INVALID_MESSAGE, f"`{field}` {how}")
    if message["version"] != VERSION:
        raise BadMessage(
            Code.VERSION_MISMATCH,
            f"version {message['version'][:32]!r} is not spoken here, only {VERSION!r} is",
        )
    return message


def fields_of(message: Mapping[str, Any], shape: type[T]) -> T:
    """Return a message's own fields; those that the shape does not have are ignored.

    :raises BadMessage: one is missing or of the wrong kind.
    """
    try:
        return msgspec.convert(message, shape)
    except msgspec.ValidationError as error:
        raise BadMessage(Code.INVALID_MESSAGE, f"{message['type']}: {error}") from error


def raw_json(value: object) -> bytes:
    """Return a value as JSON, on one line."""
    return _encode(value)


def compose(type_: str, /, **fields: Any) -> str:
    """Return a message of ours as JSON."""
    return _encode({"version": VERSION, "type": type_, **fields}).decode()


def compose_error(code: Code, message: str, /, **fields: Any) -> str:
    """Return an ``error`` as JSON.

    :param fields: what it is about: ``sessionId``, ``seq`` …
    """
    error = {"code": code, "message": message, "recoverable": code not in FATAL}
    return compose("error", **fields, error=error)


def timestamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 writes it: in UTC, with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------- what clients send


class CreateSession(msgspec.Struct, rename="camel"):
    """``session:create``."""

    agent_id: str
    agent: str = ""
    project: str = ""


class AgentMessage(msgspec.Struct, rename="camel"):
    """``agent:message``: text, or ACP content blocks."""

    session_id: str
    content: str | list[dict[str, Any]]


class OfSession(msgspec.Struct, rename="camel"):
    """``agent:cancel``, and whatever else only names a session."""

    session_id: str


class StopSession(msgspec.Struct, rename="camel"):
    """``session:stop``."""

    session_id: str
    reason: str = ""


class AttachSession(msgspec.Struct, rename="camel"):
    """``session:attach``: behind the entry `after`, of the numbering `epoch`."""

    session_id: str
    after: int = 0
    epoch: str | None = None


class ListSessions(msgspec.Struct, rename="camel"):
    """``session:list``: the page behind the id `after`."""

    after: str = ""


class AnswerPermission(msgspec.Struct, rename="camel"):
    """``permission:response``: exactly one of the last three.

    :param outcome: ``cancelled``, or ACP's outcome object.
    :param result: the whole answer, for a question that is no request for permission.
    """

    session_id: str
    request_id: str
    option_id: str | None = None
    outcome: str | dict[str, Any] | None = None
    result: dict[str, Any] | None = None
