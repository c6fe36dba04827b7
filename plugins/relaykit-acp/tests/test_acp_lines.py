from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relaykit_acp.lines import LineSplitter


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_lines_are_those_of_the_whole_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter(limit=200)
    places = [0, *sorted(cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(places)]

    assert [line for chunk in chunks for line in splitter.feed(chunk)] == data.split(b"\n")[:-1]
    assert not splitter.overflowed


def test_a_line_of_the_limit_passes() -> None:
    splitter = LineSplitter(limit=4)
    assert splitter.feed(b"abcd\n") == [b"abcd"]
    assert not splitter.overflowed


def test_a_longer_line_ends_it_but_not_what_came_before() -> None:
    splitter = LineSplitter(limit=4)
    assert splitter.feed(b"ab\nabcde\ncd\n") == [b"ab"]
    assert splitter.overflowed
    assert splitter.feed(b"ef\n") == []


def test_an_endless_line_is_noticed_before_its_end() -> None:
    splitter = LineSplitter(limit=4)
    assert splitter.feed(b"abc") == []
    assert not splitter.overflowed
    assert splitter.feed(b"de") == []
    assert splitter.overflowed
