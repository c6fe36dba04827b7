"""Identifiers, injected: tests give their own."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Protocol

_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}", re.ASCII)


class IdGenerator(Protocol):
    """Where ids come from."""

    def new_id(self) -> str:
        """Return an id never returned before: ASCII letters, digits, ``-`` and ``_``. Synchronous, any thread."""
        ...


class SystemIds:
    """128 random bits, written as 32 hexadecimal digits."""

    def new_id(self) -> str:
        """Return 128 random bits, as hexadecimal digits."""
        return os.urandom(16).hex()


def trace_id(session_id: str) -> str:
    """Return the id of the trace that a session is: 32 hexadecimal digits (https://www.w3.org/TR/trace-context/).

    The session's own id where it is one, as those of `SystemIds` are; else a digest of it. So it is the same in logs
    and traces, and after a restart.
    """
    if _TRACE_ID.fullmatch(session_id):
        return session_id
    return hashlib.sha256(session_id.encode(errors="surrogatepass")).hexdigest()[:32]
