"""Raw JSON objects, taken apart and put together by their members: no value in them is written anew."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

Members = dict[str, msgspec.Raw]

_decode = msgspec.json.Decoder(Members).decode
_encode = msgspec.json.Encoder().encode


def members_of(raw: bytes | msgspec.Raw) -> Members | None:
    """Return the members of a raw JSON object, values raw; None if it is no object."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None


def object_of(members: Mapping[str, object]) -> bytes:
    """Return an object as raw JSON; raw values stay as they are."""
    return _encode(members)


def without(raw: bytes | msgspec.Raw, key: str) -> bytes:
    """Return a raw JSON object less one member; what is no object, or has none such, as it is."""
    members = members_of(raw)
    if members is None or key not in members:
        return bytes(raw)
    del members[key]
    return _encode(members)


def spliced(body: bytes, relaykit: bytes, *, first: bytes = b"") -> bytes:
    """Return a raw JSON object with ``_meta.relaykit`` in it.

    What else it says, also in a ``_meta`` of its own, stays as it is. What is no object comes back as it is,
    but for nothing at all, which is an object without members.

    :param body: an object without a ``sessionId``.
    :param relaykit: raw JSON.
    :param first: raw members to put before everything, each with a comma behind it.
    """
    # Nearly all have no `_meta` of their own. An escape of ASCII might hide one: then it takes a closer look.
    if body[:2] == b'{"' and b'_meta"' not in body and b"\\u00" not in body:
        return b'{%b"_meta":{"relaykit":%b},%b' % (first, relaykit, body[1:])
    members = members_of(body or b"{}")
    if members is None:
        return body
    members.pop("sessionId", None)
    meta = members_of(members.pop("_meta", b"{}")) or {}
    meta["relaykit"] = msgspec.Raw(relaykit)
    rest = _encode({"_meta": meta, **members})
    return b"{%b%b" % (first, rest[1:]) if first else rest
