"""JSON that is read, and added to, without being written anew."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_decode_at = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*").match
_object_behind = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*\{").match


class Member(NamedTuple):
    """A member of an object: its value, and where that stands in the text."""

    start: int
    end: int
    value: Any


def read_object(data: bytes) -> dict[str, Any] | None:
    """Return a JSON object as Python values; None if it is no JSON, or something else than an object."""
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def members(text: str, at: int = 0) -> dict[str, Member]:
    """Return the members of the object that begins at `at`. Of two with one name, the last counts.

    :param text: valid JSON.
    """
    found: dict[str, Member] = {}
    at = _skip_space(text, _skip_space(text, at) + 1)
    while text[at] != "}":
        name, at = _decode_at(text, at)
        at = _skip_space(text, at) + 1 if text[at] != ":" else at + 1
        start = _skip_space(text, at) if text[at] <= " " else at
        value, at = _decode_at(text, start)
        found[name] = Member(start, at, value)
        at = _skip_space(text, at) if text[at] <= " " else at
        if text[at] == ",":
            at += 1
            at = _skip_space(text, at) if text[at] <= " " else at
    return found


def put(data: bytes, path: Sequence[str], value: str, *, decoded: Mapping[str, Any] | None = None) -> bytes:
    """Set one member, and leave every other byte as it is.

    Objects on the way that are missing, or are no objects, are made.

    :param data: a valid JSON object.
    :param path: the names from the outside in, with nothing in them that JSON escapes.
    :param value: JSON.
    :param decoded: what `data` says, if that is known: then it is seldom read again.
    """
    outer = None if decoded is None else decoded.get(path[0])
    if isinstance(outer, dict) and len(path) > 1 and path[1] not in outer:
        start = _only_object(data, path[0])
        if start:
            added = _nested(path[1:], value)[1:-1].encode()
            return b"%b%b%b%b" % (data[:start], added, b"," if outer else b"", data[start:])
    text = data.decode()
    found = members(text)
    for depth, name in enumerate(path):
        if name not in found:
            return _inserted(text, text.index("{"), path[depth:], value, alone=not found)
        member, inner = found[name], path[depth + 1 :]
        if not inner or not isinstance(member.value, dict):
            return (text[: member.start] + _nested(inner, value) + text[member.end :]).encode()
        if inner[0] not in member.value:  # so that its members need not be looked for
            return _inserted(text, member.start, inner, value, alone=not member.value)
        found = members(text, member.start)
    return data


def _only_object(data: bytes, name: str) -> int:
    """Return where the contents begin of the object that is the member of this name; 0 if that takes reading.

    :param data: a valid JSON object that has such a member.
    """
    # Within a text, a quotation mark has a backslash before it. So this is a name, or a text of its own, and the
    # member's own name if there is but one; unless its letters are written as numbers.
    quoted = b'"%b"' % name.encode()
    at = data.find(quoted)
    if at < 0 or data.find(quoted, at + 1) >= 0 or b"\\u" in data:
        return 0
    match = _object_behind(data, at + len(quoted))
    return match.end() if match else 0


def _inserted(text: str, at: int, path: Sequence[str], value: str, *, alone: bool) -> bytes:
    """Return the text with a first member more in the object that begins at `at`."""
    member = _nested(path, value)[1:-1]
    return f"{text[: at + 1]}{member}{'' if alone else ','}{text[at + 1 :]}".encode()


def dig(value: Any, *path: str) -> Any:
    """Return what is at a path of names in decoded JSON; None if there is nothing."""
    for name in path:
        if type(value) is not dict:
            return None
        value = value.get(name)
    return value


def text_at(value: Any, *path: str) -> str:
    """Return the text at a path; empty if there is none."""
    found = dig(value, *path)
    return found if isinstance(found, str) else ""


def number_at(value: Any, *path: str) -> int:
    """Return the number at a path; 0 if there is none."""
    found = dig(value, *path)
    return found if isinstance(found, int) else 0


def _skip_space(text: str, at: int) -> int:
    match = _space(text, at) if text[at] <= " " else None
    return at if match is None else match.end()


def _nested(path: Sequence[str], value: str) -> str:
    for name in reversed(path):
        value = f'{{"{name}":{value}}}'
    return value
