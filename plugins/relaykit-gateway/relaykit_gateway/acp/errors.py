"""What can go wrong for a client of ``/acp``, in JSON-RPC's and ACP's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from relaykit.errors import (
    CursorAhead,
    DuplicateRole,
    InvalidAgentId,
    LoginRequired,
    NotAllowed,
    RelaykitError,
    SessionNotFound,
    SpawnError,
    UnknownAgent,
    UnknownProject,
)
from relaykit_gateway.codes import Code, code_of

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
LOGIN_REQUIRED = -32000
NOT_FOUND = -32002
NOT_ALLOWED = -32003  # one of the numbers that JSON-RPC leaves to servers, and ACP has no use for
CANCELLED = -32800

_NUMBERS: Mapping[type[RelaykitError], int] = MappingProxyType(
    {
        SessionNotFound: NOT_FOUND,
        NotAllowed: NOT_ALLOWED,
        LoginRequired: LOGIN_REQUIRED,
        UnknownAgent: INVALID_PARAMS,
        UnknownProject: INVALID_PARAMS,
        InvalidAgentId: INVALID_PARAMS,
        DuplicateRole: INVALID_PARAMS,
        CursorAhead: INVALID_PARAMS,
    }
)


class RpcError(Exception):
    """A request cannot be answered with a result. The text is for the client.

    :param code: the relay's own word for it, where there is one; it goes into ``data.relaykit.code``.
    """

    def __init__(self, number: int, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.number = number
        self.code = code

    def __bytes__(self) -> bytes:
        """Return the raw error object."""
        data = {"data": {"relaykit": {"code": self.code}}} if self.code else {}
        return msgspec.json.encode({"code": self.number, "message": str(self), **data})


def rpc_error_of(error: Exception) -> RpcError:
    """Return what a client is told of an error; what is none of its business has the code INTERNAL."""
    code = Code.SPAWN_FAILED if isinstance(error, SpawnError) else code_of(error)
    if code is Code.INTERNAL:
        return RpcError(INTERNAL_ERROR, "the relay failed; its log says how", code)
    number = next((_NUMBERS[cls] for cls in type(error).__mro__ if cls in _NUMBERS), INTERNAL_ERROR)
    return RpcError(number, str(error), code)
