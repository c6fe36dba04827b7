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


class _Taken(msgspec.Struct, gc=False):
    meta: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="_meta")


_decode_taken = msgspec.json.Decoder(_Taken).decode


def is_plain(body: bytes) -> bool:
    """Tell whether a raw JSON object has members, but no ``_meta``: ours can be put before its own.

    An object that begins with white space is taken for one that is not plain.
    """
    if body[:2] != b'{"':
        return False
    # Most do not have the word, also not hidden by an escape of ASCII; in most others it stands further inside.
    if b'_meta"' not in body and b"\\u00" not in body:
        return True
    try:
        return not _decode_taken(body).meta
    except (msgspec.MsgspecError, RecursionError):
        return False


def spliced(body: bytes, relaykit: bytes, *, first: bytes = b"") -> bytes:
    """Return a raw JSON object with ``_meta.relaykit`` in it.

    What else it says, also in a ``_meta`` of its own, stays as it is. What is no object comes back as it is,
    but for nothing at all, which is an object without members.

    :param relaykit: raw JSON.
    :param first: raw members to put before everything, each with a comma behind it; the object has none of them.
    """
    if is_plain(body):
        return b'{%b"_meta":{"relaykit":%b},%b' % (first, relaykit, body[1:])
    members = members_of(body or b"{}")
    if members is None:
        return body
    meta = members_of(members.pop("_meta", b"{}")) or {}
    meta["relaykit"] = msgspec.Raw(relaykit)
    rest = _encode({"_meta": meta, **members})
    return b"{%b%b" % (first, rest[1:]) if first else rest
