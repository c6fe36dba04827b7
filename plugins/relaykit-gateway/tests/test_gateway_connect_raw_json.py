"""JSON that is added to without being written anew, by properties."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaykit_gateway.connect.raw_json import members, put

PATH = ("params", "_meta", "relaykit")
NAMES = st.sampled_from([*PATH, "turn", "", 'a"b', "}{", "é"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
NESTED = OBJECTS.flatmap(
    lambda outer: OBJECTS.map(lambda meta: {**outer, "params": {**outer, "_meta": meta}}) | st.just(outer)
)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
LAYOUTS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r\n")])


def same(one: bytes, other: bytes) -> int:
    """Return how many bytes they begin with that are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@patient
@given(NESTED, LAYOUTS, st.integers(1, 4), st.booleans(), st.booleans())
def test_put_sets_one_member_and_leaves_the_rest(
    value: dict[str, Any],
    layout: tuple[str, str],
    depth: int,
    ascii_only: bool,  # noqa: FBT001 -- hypothesis gives it
    is_decoded: bool,  # noqa: FBT001
) -> None:
    path = (*PATH, "turn")[:depth]
    raw = f" {json.dumps(value, separators=layout, ensure_ascii=ascii_only)}\n".encode(errors="replace")
    wanted = inner = json.loads(raw)
    replaces = False
    for name in path[:-1]:
        if not isinstance(inner.get(name), dict):
            replaces |= name in inner
            inner[name] = {}
        inner = inner[name]
    replaces |= path[-1] in inner
    inner[path[-1]] = [1.50]
    done = put(raw, path, "[1.50]", decoded=json.loads(raw) if is_decoded else None)
    assert json.loads(done) == wanted
    before, behind = same(raw, done), same(raw[::-1], done[::-1])
    assert replaces or before + behind >= len(raw)  # it was put between two bytes that are there still


@pytest.mark.parametrize(
    "raw",
    [
        b'{"id":"params","params":{"a":1}}',
        b'{"a":{"params":{}},"params":{"a":1}}',
        b'{"a":{"params":{}},"p\\u0061rams":{"a":1}}',
        b'{"a":"\\"params\\":{","params" : {"a":1}}',
        b'{"params":{},"params" :\n{"a":1}}',
    ],
    ids=["a text", "further in", "in numbers", "in a text", "twice"],
)
def test_put_is_not_misled_by_what_looks_like_the_name(raw: bytes) -> None:
    wanted = json.loads(raw)
    wanted["params"]["_meta"] = {"relaykit": 1}
    assert json.loads(put(raw, PATH, "1", decoded=json.loads(raw))) == wanted


@patient
@given(OBJECTS, LAYOUTS)
def test_members_are_where_they_are_said_to_be(value: dict[str, Any], layout: tuple[str, str]) -> None:
    text = json.dumps(value, separators=layout)
    found = members(text)
    assert {name: member.value for name, member in found.items()} == value
    assert {name: json.loads(text[member.start : member.end]) for name, member in found.items()} == value
