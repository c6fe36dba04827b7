from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaykit_acp import envelope
from relaykit_acp.envelope import NotAMessage, NotJson, decode, splice_session_id, strip_session_id

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["sessionId", '"sessionId":"x",', '{"sessionId":"x"}', "\\u0073", "}", "]", '"', "\\"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(_TEXT.filter(lambda key: key != "sessionId"), _VALUES, max_size=4)


@dataclass(frozen=True)
class Style:
    """How some writer writes JSON."""

    comma: str
    colon: str
    escaped: bool

    def write(self, value: Any) -> str:
        return json.dumps(value, separators=(self.comma, self.colon), ensure_ascii=self.escaped)

    def members(self, value: dict[str, Any]) -> list[str]:
        return [f"{self.write(key)}{self.colon}{self.write(inner)}" for key, inner in value.items()]


_STYLES = st.builds(
    Style, st.sampled_from([",", ", ", " ,\t"]), st.sampled_from([":", ": ", " :  "]), st.booleans()
)


@given(_OBJECTS, _TEXT, st.integers(0, 4), _STYLES, st.sampled_from(['"sessionId"', '"session\\u0049d"']))
def test_stripping_takes_the_session_id_and_nothing_else(
    others: dict[str, Any], session_id: str, place: int, style: Style, key: str
) -> None:
    members = style.members(others)
    with_id = list(members)
    with_id.insert(place, f"{key}{style.colon}{style.write(session_id)}")

    stripped = strip_session_id(("{" + style.comma.join(with_id) + "}").encode())

    assert list(json.loads(stripped).items()) == list(others.items())
    for member in members:
        assert member.encode() in stripped


@given(_OBJECTS, _STYLES)
def test_what_has_no_session_id_comes_back_as_it_was(others: dict[str, Any], style: Style) -> None:
    raw = style.write(others).encode()
    assert strip_session_id(raw) == raw


@given(_OBJECTS, _TEXT, _STYLES)
def test_splicing_is_the_inverse_of_stripping(others: dict[str, Any], session_id: str, style: Style) -> None:
    body = style.write(others).encode()

    spliced = splice_session_id(style.write(session_id).encode(), body)

    assert json.loads(spliced) == {"sessionId": session_id, **others}
    assert strip_session_id(spliced) == body


@pytest.mark.parametrize(
    ("raw", "stripped"),
    [
        (b'{"sessionId":"a","x":1}', b'{"x":1}'),
        (b'{ "sessionId": "a", "x": 1}', b'{  "x": 1}'),
        (b'{"sessionId":"a"}', b"{}"),
        (b'{"x":1,"sessionId":"a"}', b'{"x":1}'),
        (b'{"x":1,"sessionId":"a","y":2}', b'{"x":1,"y":2}'),
        (b'{"sessionId":"a\\"b","x":1}', b'{"x":1}'),
        (b'{"sessionId":null,"x":1}', b'{"x":1}'),
        (b'{"sessionId":{"sessionId":"a"},"x":1}', b'{"x":1}'),
        (b'{"x":{"sessionId":"a"}}', b'{"x":{"sessionId":"a"}}'),
        (b'{"x":{"sessionId":"a"},"sessionId":"b"}', b'{"x":{"sessionId":"a"}}'),
        (b'{"x":"sessionId","y":{"sessionId":"a"}}', b'{"x":"sessionId","y":{"sessionId":"a"}}'),
        (b'{"a\\"sessionId":"x"}', b'{"a\\"sessionId":"x"}'),
        (b"", b""),
        (b"[1]", b"[1]"),
        (b'[{"sessionId":"a"}]', b'[{"sessionId":"a"}]'),
        (b"null", b"null"),
    ],
)
def test_stripping_by_example(raw: bytes, stripped: bytes) -> None:
    assert strip_session_id(raw) == stripped


@pytest.mark.parametrize("body", [b"", b"{}", b" { } "])
def test_an_empty_body_becomes_the_session_id_alone(body: bytes) -> None:
    assert splice_session_id(b'"s"', body) == b'{"sessionId":"s"}'


@pytest.mark.parametrize("key", ['"sessionId"', '"\\u0073essionId"'])
def test_no_body_addresses_another_session(key: str) -> None:
    body = f'{{{key}:"theirs","x":1,{key}:"theirs too"}}'.encode()
    assert splice_session_id(b'"ours"', body) == b'{"sessionId":"ours","x":1}'


def test_what_is_sent_is_one_line() -> None:
    body = b'{\r\n  "prompt": "a\\nb"\n}'
    assert b"\n" not in splice_session_id(b'"s"', body)
    assert json.loads(splice_session_id(b'"s"', body)) == {"sessionId": "s", "prompt": "a\nb"}


@pytest.mark.parametrize(
    "body", [b"[1]", b"3", b'{"a":1', b'{}}\n{"method":"x"}', b"{}{}", b"[" * 100_000, b'{"a":NaN}']
)
def test_what_is_no_object_cannot_be_spliced(body: bytes) -> None:
    with pytest.raises(ValueError, match="body"):
        splice_session_id(b'"s"', body)


# ---------------------------------------------------------------- decoding


def test_raw_parts_are_byte_for_byte() -> None:
    message = decode(
        b'{"jsonrpc":"2.0", "id" : "a\\u0062" , "method":"m","params": {"x" : 1.50, "y":[ ]} }\r'
    )
    assert bytes(message.id) == b'"a\\u0062"'
    assert message.method == "m"
    assert bytes(message.params) == b'{"x" : 1.50, "y":[ ]}'


@pytest.mark.parametrize("raw_id", [b"0", b'"0"', b"null", b"-1"])
def test_ids_stay_raw(raw_id: bytes) -> None:
    assert bytes(decode(b'{"id":%b,"result":null}' % raw_id).id) == raw_id


@pytest.mark.parametrize(
    "line",
    [
        b"Welcome!",
        b"3",
        b'"text"',
        b"{",
        b"",
        b'{"method":"m","params":NaN}x',
        b'{"a":' * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_json_object(line: bytes) -> None:
    with pytest.raises(NotJson):
        decode(line)


def test_deep_nesting_inside_an_object_is_refused() -> None:
    with pytest.raises((NotJson, NotAMessage)):
        decode(b'{"method":"m","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@pytest.mark.parametrize(
    ("line", "raw_id", "answers"),
    [
        (b'[{"jsonrpc":"2.0","id":1,"method":"m"}]', b"null", None),
        (b'{"id":7,"method":3}', b"7", None),
        (b'{"id":"x","method":"m","params":NaN}', b'"x"', None),
        (b'{"method":"m","params":NaN}', None, None),
        (b'{"id":7,"result":NaN}', None, b"7"),
        (b'{"jsonrpc":"2.0"}', None, None),
        (b'{"id":true,"method":3}', None, None),
    ],
)
def test_what_is_json_but_no_message(line: bytes, raw_id: bytes | None, answers: bytes | None) -> None:
    with pytest.raises(NotAMessage) as caught:
        decode(line)
    assert (caught.value.raw_id, caught.value.answers) == (raw_id, answers)


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        (b'"\\ud83d"', '"\ufffd"'),
        (b'"a\\uDE00b"', '"a\ufffdb"'),
        (b'"\\ud83d\\ude00"', '"\U0001f600"'),
        (b'"\\ud83d\\ud83d\\ude00"', '"\ufffd\U0001f600"'),
        (b'"\\\\ud83d\\ud83d"', '"\\\\ud83d\ufffd"'),
        (b'"\xff"', '"\ufffd"'),
    ],
)
def test_broken_characters_are_replaced_and_the_rest_stays(given: bytes, mended: str) -> None:
    message = decode(b'{"method":"m","params":{"x":1.50,"t":%b}}' % given)
    assert bytes(message.params).startswith(b'{"x":1.50,')
    assert json.loads(bytes(message.params)) == {"x": 1.5, "t": json.loads(mended)}


def test_lines_to_send() -> None:
    assert envelope.request(3, "m", b"{}") == b'{"jsonrpc":"2.0","id":3,"method":"m","params":{}}\n'
    assert envelope.notification("m", b"{}") == b'{"jsonrpc":"2.0","method":"m","params":{}}\n'
    assert envelope.answer(b'"a"', b"{}", failed=False) == b'{"jsonrpc":"2.0","id":"a","result":{}}\n'
    assert envelope.answer(b"0", b"", failed=False) == b'{"jsonrpc":"2.0","id":0,"result":null}\n'
    error = envelope.error_object(-32601, "no")
    assert json.loads(envelope.answer(b"0", error, failed=True))["error"] == {"code": -32601, "message": "no"}
