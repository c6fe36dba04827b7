"""The questions that an agent may ask, and how to say no to each."""

from __future__ import annotations

from typing import Any

import msgspec

from relaykit.conversation.frame import Frame, Kind

PERMISSION = "session/request_permission"
ELICITATION = "elicitation/create"
METHODS = frozenset({PERMISSION, ELICITATION})


class _Option(msgspec.Struct, rename="camel"):
    option_id: str = ""
    kind: str = ""


class _Permission(msgspec.Struct):
    options: list[_Option] = msgspec.field(default_factory=list)


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
        option = None if cancelled else _rejection(request.body)
        outcome = (
            {"outcome": "selected", "optionId": option} if option is not None else {"outcome": "cancelled"}
        )
        answer = {"outcome": outcome}
    return Frame(Kind.DECISION, msgspec.json.encode(answer), request.ref, request.method)


def _rejection(body: bytes) -> str | None:
    try:
        options = msgspec.json.decode(body, type=_Permission).options
    except msgspec.MsgspecError:
        return None
    for kind in ("reject_once", "reject_always"):
        for option in options:
            if option.kind == kind:
                return option.option_id
    return None
