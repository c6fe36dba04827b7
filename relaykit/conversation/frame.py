"""Frame: one thing said."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What was said, and in which direction."""

    PROMPT = "PROMPT"  # to the agent: a turn begins; `ref` names the turn
    CANCEL = "CANCEL"  # to the agent: end the running turn
    UPDATE = "UPDATE"  # from the agent: part of an answer, or any other notification
    REQUEST = "REQUEST"  # from the agent: a question that somebody must answer; `ref` names it
    DECISION = "DECISION"  # to the agent: the answer to the REQUEST of the same `ref`
    CALL = "CALL"  # to the agent: any other request of a client's; `ref` names it
    RESULT = "RESULT"  # from the agent: the answer to the CALL of the same `ref`
    TURN_END = "TURN_END"  # from the agent: the answer to the PROMPT of the same `ref`
    NOTICE = "NOTICE"  # from the relay itself; `method` says which


class Frame(NamedTuple):
    """One thing said, with its JSON as raw bytes: nothing that relaykit does not know is lost.

    A tuple, because one is made for every message: a frozen dataclass takes five times as long.

    :param body: raw JSON: the params or the result, less the session id. Empty means that there was none.
    :param ref: the relay's own id of the turn, the question or the call.
    :param method: the protocol's method name, for requests and notifications (``session/update``); for a
        NOTICE the relay's word.
    :param failed: the body is a JSON-RPC error object (``code``, ``message``, ``data``), not a result.
    """

    kind: Kind
    body: bytes = b""
    ref: str = ""
    method: str = ""
    failed: bool = False
