"""Signatures as Standard Webhooks has them (https://www.standardwebhooks.com, specification 1.0.0): HMAC-SHA256."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # bytes, as the specification says


def keys_of(text: str) -> Sequence[bytes]:
    """Return the keys that a text means: ``whsec_`` and base64; several, while one is being replaced, with spaces.

    :raises ValueError: it means none; the message does not repeat it.
    """
    try:
        keys = [base64.b64decode(word.removeprefix(_PREFIX), validate=True) for word in text.split()]
    except (binascii.Error, ValueError):
        keys = []
    if not keys or not all(_SHORTEST <= len(key) <= _LONGEST for key in keys):
        raise ValueError(
            f"it must be {_PREFIX} and the base64 of {_SHORTEST} to {_LONGEST} random bytes: "
            f'make one by `echo "{_PREFIX}$(openssl rand -base64 32)"`'
        )
    return keys


def sign(keys: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature``, one signature a key."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
