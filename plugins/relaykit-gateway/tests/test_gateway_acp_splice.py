"""Raw JSON, spliced: what comes out is what went in, and our own part."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relaykit_gateway.acp.envelope import IdTooLong, Malformed, Message, key_of, read
from relaykit_gateway.acp.splice import is_plain, members_of, object_of, spliced, without

quick = settings(max_examples=60, deadline=None)

# Names that are ours to give, often, and everywhere; some hidden by escapes when they are written.
names = st.sampled_from(["_meta", "relaykit", "update", "x", ""]) | st.text(max_size=4)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
ways: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"separators": (",", ":")},
        {"separators": (", ", ": ")},
        {"indent": 1},
        {"ensure_ascii": False, "separators": (",", ":")},
    ]
)


@st.composite
def written(draw: st.DrawFn) -> str:
    """Write an object: the same JSON in one way or another, sometimes with our names as escapes."""
    raw = json.dumps(draw(st.dictionaries(names, values, max_size=5)), **draw(ways))
    return raw.replace("_meta", "\\u005fmet\\u0061") if draw(st.booleans()) else raw


def with_ours(raw: str, ours: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(raw)
    theirs = value.get("_meta")
    return {**value, "_meta": {**(theirs if isinstance(theirs, dict) else {}), "relaykit": ours}}


@quick
@given(written())
@example('{"_meta":{"a":1,"relaykit":{"seq":7}}}')
@example('{"\\u005fmeta":null}')
@example("{ }")
def test_an_object_gets_our_part_and_keeps_its_own(raw: str) -> None:
    assert json.loads(spliced(raw.encode(), b'{"seq":3}')) == with_ours(raw, {"seq": 3})


@quick
@given(written())
def test_an_address_goes_before_everything(raw: str) -> None:
    out = spliced(raw.encode(), b'{"seq":3}', first=b'"sessionId":"ours",')
    assert out.startswith(b'{"sessionId":"ours",')
    assert json.loads(out) == {"sessionId": "ours", **with_ours(raw, {"seq": 3})}


@quick
@given(written())
def test_plain_is_what_has_members_and_no_meta(raw: str) -> None:
    value = json.loads(raw)
    if is_plain(raw.encode()):
        assert value
        assert "_meta" not in value
    else:
        assert not value or "_meta" in value or not raw.startswith('{"')


@pytest.mark.parametrize("meta", ["", '"_meta":{"b":2},', '"\\u005fmeta":{"b":2},'])
def test_values_stay_byte_for_byte(meta: str) -> None:
    odd = '{"f":1.10,"e":1E2,"big":123456789012345678901234567890,"s":"\\u00e9\\/é","sp":[ 1 , 2 ]}'
    out = spliced(f'{{{meta}"odd":{odd}}}'.encode(), b'{"seq":1}')
    assert odd.encode() in out
    assert out.count(b"meta") == 1
    assert json.loads(out)["_meta"]["relaykit"] == {"seq": 1}
    assert ('"b":2' in out.decode()) == bool(meta)


@pytest.mark.parametrize("body", [b"null", b"[1]", b'"x"', b"7", b"nonsense"])
def test_what_is_no_object_stays_as_it_is(body: bytes) -> None:
    assert spliced(body, b"{}") == body
    assert without(body, "x") == body
    assert members_of(body) is None


def test_nothing_is_an_object_without_members() -> None:
    assert spliced(b"", b'{"seq":1}') == b'{"_meta":{"relaykit":{"seq":1}}}'
    assert spliced(b"", b"1", first=b'"a":2,') == b'{"a":2,"_meta":{"relaykit":1}}'


@quick
@given(written(), names)
def test_a_member_is_taken_out(raw: str, name: str) -> None:
    left = {key: each for key, each in json.loads(raw).items() if key != name}
    assert json.loads(without(raw.encode(), name)) == left


def test_members_are_put_together_again() -> None:
    raw = b'{"a": 1.50, "b" : [1 ,2], "a":null}'
    assert object_of({**(members_of(raw) or {}), "c": "d"}) == b'{"a":null,"b":[1 ,2],"c":"d"}'


# ---------------------------------------------------------------- messages of clients


def outcome(text: str) -> Message | Malformed:
    try:
        return read(text)
    except Malformed as malformed:
        return malformed


@quick
@given(written() | st.text(max_size=40) | values.map(json.dumps))
def test_what_is_no_message_is_answered(text: str) -> None:
    wrong = outcome(text)
    assert isinstance(wrong, Malformed)
    error = json.loads(bytes(wrong.error))
    assert error["code"] in {-32600, -32700}
    assert error["message"]
    assert wrong.raw_id == b"null"


@quick
@given(written(), st.sampled_from(["7", '"seven"']))
def test_a_message_keeps_its_params_as_they_are_written(raw: str, raw_id: str) -> None:
    message = outcome(f'{{"jsonrpc": "2.0", "id": {raw_id}, "method": "m", "params": {raw}}}')
    assert isinstance(message, Message)
    assert bytes(message.params).decode() == raw
    assert bytes(message.id).decode() == raw_id


@pytest.mark.parametrize(
    "rest", ['"method": 7', '"params": "\\ud83d", "method": "m"', '"params": NaN, "method": "m"']
)
def test_who_asked_is_told_what_was_wrong(rest: str) -> None:
    wrong = outcome(f'{{"id": 5, {rest}}}')
    assert isinstance(wrong, Malformed)
    assert wrong.raw_id == b"5"
    assert wrong.error.number == -32600


@pytest.mark.parametrize(
    "raw_id", ["1", "-5", "1.5", '"a"', '""', '"' + "x" * 1024 + '"', '"' + "\\u00e9" * 1024 + '"']
)
def test_ids_come_back_as_they_are_written(raw_id: str) -> None:
    message = read(f'{{"jsonrpc":"2.0","id": {raw_id} ,"method":"m"}}')
    assert bytes(message.id).decode() == raw_id


@pytest.mark.parametrize("raw_id", ['"' + "x" * 1025 + '"', "9" * 1025, '"' + "\\u00e9" * 1025 + '"'])
@pytest.mark.parametrize("rest", ['"method":"m"', '"method":7', '"result":{}'])
def test_ids_that_are_too_long(raw_id: str, rest: str) -> None:
    with pytest.raises(IdTooLong):
        read(f'{{"id":{raw_id},{rest}}}')


def test_ids_are_compared_by_what_they_mean() -> None:
    assert key_of(msgspec.Raw(b'"\\u0061"')) == key_of(b'"a"') != key_of(b"1") == 1
