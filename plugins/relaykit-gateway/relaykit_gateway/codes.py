"""What can go wrong for a client of the relay protocol: every code, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from relaykit.errors import (
    AgentError,
    CursorAhead,
    DuplicateRole,
    InvalidAgentId,
    ManagerClosed,
    NotAllowed,
    QuestionClosed,
    Refused,
    RelaykitError,
    SessionElsewhere,
    SessionLimit,
    SessionNotActive,
    SessionNotFound,
    TransitionError,
    TurnQueueFull,
    UnknownAgent,
    UnknownProject,
)


class Code(StrEnum):
    """The ``code`` of an ``error`` message."""

    INVALID_MESSAGE = "INVALID_MESSAGE"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    UNKNOWN_AGENT = "UNKNOWN_AGENT"
    UNKNOWN_PROJECT = "UNKNOWN_PROJECT"
    INVALID_AGENT_ID = "INVALID_AGENT_ID"
    DUPLICATE_ROLE = "DUPLICATE_ROLE"
    SESSION_LIMIT = "SESSION_LIMIT"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_ELSEWHERE = "SESSION_ELSEWHERE"
    SESSION_NOT_ACTIVE = "SESSION_NOT_ACTIVE"
    CURSOR_AHEAD = "CURSOR_AHEAD"
    QUESTION_CLOSED = "QUESTION_CLOSED"
    BUSY = "BUSY"
    SPAWN_FAILED = "SPAWN_FAILED"
    WAKE_FAILED = "WAKE_FAILED"
    AGENT_FAILED = "AGENT_FAILED"
    FORBIDDEN = "FORBIDDEN"
    NOT_ALLOWED = "NOT_ALLOWED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"


FATAL = frozenset({Code.VERSION_MISMATCH, Code.SHUTTING_DOWN})
"""Codes after which the connection is of no more use: ``recoverable`` is false."""

CODES: Mapping[type[RelaykitError], Code] = MappingProxyType(
    {
        UnknownAgent: Code.UNKNOWN_AGENT,
        UnknownProject: Code.UNKNOWN_PROJECT,
        InvalidAgentId: Code.INVALID_AGENT_ID,
        DuplicateRole: Code.DUPLICATE_ROLE,
        SessionLimit: Code.SESSION_LIMIT,
        SessionNotFound: Code.SESSION_NOT_FOUND,
        SessionElsewhere: Code.SESSION_ELSEWHERE,
        SessionNotActive: Code.SESSION_NOT_ACTIVE,
        TransitionError: Code.SESSION_NOT_ACTIVE,
        CursorAhead: Code.CURSOR_AHEAD,
        QuestionClosed: Code.QUESTION_CLOSED,
        TurnQueueFull: Code.BUSY,
        AgentError: Code.AGENT_FAILED,
        Refused: Code.FORBIDDEN,
        NotAllowed: Code.NOT_ALLOWED,
        ManagerClosed: Code.SHUTTING_DOWN,
    }
)


def code_of(error: Exception) -> Code:
    """Return the code of an error's nearest class in the table; what is not in it is INTERNAL."""
    return next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), Code.INTERNAL)
