"""The questions that an agent may ask, what each is about, and how to say yes or no to it."""

from __future__ import annotations

from typing import Any

import msgspec

from relaykit.agent.launcher import ToolUse
from relaykit.conversation.frame import Frame, Kind

PERMISSION = "session/request_permission"
ELICITATION = "elicitation/create"
METHODS = frozenset({PERMISSION, ELICITATION})

_KINDS = frozenset(
    {
        "read",
        "edit",
        "delete",
        "move",
        "search",
        "execute",
        "think",
        "fetch",
        "switch_mode",
        "other",
    }
)


class _Option(msgspec.Struct, rename="camel"):
    option_id: str | None = None
    kind: str = ""


class _Permission(msgspec.Struct):
    options: list[_Option] = msgspec.field(default_factory=list)


class _Location(msgspec.Struct):
    path: str


class _ToolCall(msgspec.Struct):
    kind: str | None = None
    locations: list[_Location] | None = None


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_call: _ToolCall


class _Cancellation(msgspec.Struct, rename="camel"):
    request_id: msgspec.Raw = msgspec.Raw()


def cancelled_id(body: bytes) -> bytes:
    """Return the raw id of the request that a ``$/cancel_request`` means; empty if it names none."""
    try:
        return bytes(msgspec.json.decode(body, type=_Cancellation).request_id)
    except msgspec.MsgspecError:
        return b""


def decline(request: Frame, *, cancelled: bool) -> Frame:
    """Return the DECISION that says no to a question; the mildest no that the agent offers.

    :param cancelled: the turn was cancelled, which is not the same as a refusal.
    """
    answer: dict[str, Any]
    if request.method == ELICITATION:
        answer = {"action": "cancel" if cancelled else "decline"}
    else:
        option = None if cancelled else _option(request.body, "reject_once", "reject_always")
        answer = {"outcome": _selected(option) if option is not None else {"outcome": "cancelled"}}
    return Frame(Kind.DECISION, msgspec.json.encode(answer), request.ref, request.method)


def allow(request: Frame) -> Frame | None:
    """Return the DECISION that says yes to a request for permission, once if the agent offers that; or None."""
    option = _option(request.body, "allow_once", "allow_always") if request.method == PERMISSION else None
    if option is None:
        return None
    body = msgspec.json.encode({"outcome": _selected(option)})
    return Frame(Kind.DECISION, body, request.ref, request.method)


def tool_use(request: Frame) -> ToolUse | None:
    """Return what a request for permission is about; None if it is not understood, or is none."""
    if request.method != PERMISSION:
        return None
    try:
        call = msgspec.json.decode(request.body, type=_ToolUse).tool_call
    except (msgspec.MsgspecError, RecursionError):
        return None
    kind = call.kind if call.kind in _KINDS else None
    return ToolUse(kind, tuple(location.path for location in call.locations or ()))


def _selected(option: str) -> dict[str, Any]:
    return {"outcome": "selected", "optionId": option}


def _option(body: bytes, *kinds: str) -> str | None:
    """Return the option of the first of these kinds that is offered."""
    try:
        options = msgspec.json.decode(body, type=_Permission).options
    except (msgspec.MsgspecError, RecursionError):
        return None
    for kind in kinds:
        for option in options:
            if option.kind == kind and option.option_id is not None:
                return option.option_id
    return None
