from __future__ import annotations

import re
import time
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaykit_gateway.terminal.markdown import Markdown
from relaykit_gateway.terminal.screen import Screen

SGR = re.compile(r"\x1b\[([0-9;]*)m")
NAMES = {"1": "b", "2": "dim", "3": "i", "4": "u", "36": "c"}


def written(*pieces: str, end: bool = True) -> str:
    stream = StringIO()
    markdown = Markdown(Screen(stream, colours=True))
    for piece in pieces:
        markdown.write(piece)
    if end:
        markdown.end()
    return stream.getvalue()


def cells(text: str) -> list[tuple[str, str]]:
    """Return each character with the style in which a terminal shows it."""
    found: list[tuple[str, str]] = []
    style = ""
    for number, part in enumerate(SGR.split(text)):
        if number % 2:
            style = "" if part == "0" else part
        else:
            found += [(character, style) for character in part]
    return found


def tagged(*pieces: str, end: bool = True) -> str:
    """Return what is seen, its styles as tags."""
    seen, style = "", ""
    for character, now in cells(written(*pieces, end=end)):
        if now != style:
            seen += f"</{_tag(style)}>" if style else ""
            seen += f"<{_tag(now)}>" if now else ""
            style = now
        seen += character
    return seen + (f"</{_tag(style)}>" if style else "")


def _tag(style: str) -> str:
    return " ".join(NAMES[part] for part in style.split(";"))


@pytest.mark.parametrize(
    ("markdown", "seen"),
    [
        ("plain text", "plain text"),
        ("a **b** c", "a <b>b</b> c"),
        ("a __b__ c", "a <b>b</b> c"),
        ("a *b* and _c_", "a <i>b</i> and <i>c</i>"),
        ("***both***.", "<b i>both</b i>."),
        ("**a `b` *c***", "<b>a </b><b c>b</b c><b> </b><b i>c</b i>"),
        ("`a`, ``b`c``", "<c>a</c>, <c>b`c</c>"),
        ("`**a**`", "<c>**a**</c>"),
        ("snake_case_name, _a_b", "snake_case_name, _a_b"),
        ("2 * 3 * 4 and 2*3*4", "2 * 3 * 4 and 2*3*4"),
        ("**never closed", "**never closed"),
        ("`never closed", "`never closed"),
        ("[never](closed", "[never](closed"),
        (r"\*a\* \` \d", r"*a* ` \d"),
        ("[a](http://b/c)!", "<u>a</u><dim> (http://b/c)</dim>!"),
        ("[http://b](http://b)", "<u>http://b</u>"),
        ("![a](b.png) a!", "<u>a</u><dim> (b.png)</dim> a!"),
        ("[1] is [x] no link", "[1] is [x] no link"),
        ("# One *two*", "<b u>One </b u><b u i>two</b u i>"),
        ("### Three", "<b>Three</b>"),
        ("#no heading", "#no heading"),
        ("- a\n  * b\n+ **c**", "<c>•</c> a\n  <c>•</c> b\n<c>•</c> <b>c</b>"),
        ("1. a\n 12) b", "<c>1.</c> a\n <c>12)</c> b"),
        ("-a 1.b", "-a 1.b"),
        ("> a\n> > - b", "<dim>│ </dim>a\n<dim>│ │ </dim><c>•</c> b"),
        ("| a | b |\n|---|---|", "| a | b |\n|---|---|"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("***\n* * *\n-----", f"<dim>{'─' * 40}</dim>\n<dim>{'─' * 40}</dim>\n<dim>{'─' * 40}</dim>"),
        ("```py\na **b**\n  # c\n```\n*d*", "<dim>```py</dim>\n<c>a **b**</c>\n<c>  # c</c>\n<dim>```</dim>\n<i>d</i>"),
        ("~~~\n```\n~~~~\na", "<dim>~~~</dim>\n<c>```</c>\n<dim>~~~~</dim>\na"),
        ("````\n```\n````\n*a*", "<dim>````</dim>\n<c>```</c>\n<dim>````</dim>\n<i>a</i>"),
        ("```a``` b", "<c>a</c> b"),
    ],
)  # fmt: skip
def test_what_is_seen(markdown: str, seen: str) -> None:
    assert tagged(markdown) == seen
    assert tagged(*markdown) == seen


MARKS = [
    "**",
    "*",
    "_",
    "`",
    "```",
    "~~~",
    "[",
    "](",
    ")",
    "# ",
    "> ",
    "- ",
    "1. ",
    "\\",
    "!",
    " ",
    "\n",
    "a",
    "b c",
    "é",
]


@given(st.lists(st.sampled_from(MARKS), max_size=30), st.data())
def test_it_looks_the_same_in_whatever_pieces_it_comes(marks: list[str], data: st.DataObject) -> None:
    text = "".join(marks)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert cells(written(*pieces)) == cells(written(text))


@given(st.lists(st.sampled_from(MARKS), max_size=30))
def test_what_is_written_is_never_taken_back(marks: list[str]) -> None:
    stream = StringIO()
    markdown = Markdown(Screen(stream, colours=True))
    for mark in marks:
        markdown.write(mark)
    markdown.end()
    assert not re.sub(SGR, "", stream.getvalue()).count("\x1b")
    assert stream.getvalue().count("\n") == "".join(marks).count("\n")
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize(
    ("piece", "seen"),
    [
        ("a word", "a word"),
        ("2 * 3", "2 * 3"),
        ("a **b", "a "),
        ("a **b** ", "a <b>b</b> "),
        ("see `x", "see "),
        ("-", ""),
        ("- it", "<c>•</c> it"),
        ("[1] i", "[1] i"),
        ("snake_ca", "snake_ca"),
        ("```py", ""),
        ("```py\nx = 1", "<dim>```py</dim>\n<c>x = 1</c>"),
    ],
)
def test_what_is_clear_does_not_wait_for_the_end_of_the_line(piece: str, seen: str) -> None:
    assert tagged(piece, end=False) == seen


def test_an_end_closes_what_was_left_open() -> None:
    stream = StringIO()
    markdown = Markdown(Screen(stream, colours=True))
    markdown.write("```\ncode")
    markdown.end()
    markdown.write("*a*")
    markdown.end()
    assert SGR.sub("", stream.getvalue()) == "```\ncodea"


def test_terminal_escapes_of_agents_are_removed() -> None:
    assert tagged("a\x1b]0;title\x07 \x9b2Jb\r\u202ec**\x1b[31md**") == "a]0;title 2Jbc<b>[31md</b>"


def test_what_never_makes_sense_costs_little_and_does_not_wait_for_ever() -> None:
    started = time.monotonic()
    for text in ("`" + "x" * 8000, "*a " * 4000, " " * 8000, "[" * 8000, "-" * 8000, "_a*b`" * 2000):
        for pieces in ([text], [text[at : at + 40] for at in range(0, len(text), 40)]):
            assert len(SGR.sub("", written(*pieces, end=False))) > 0
    assert time.monotonic() - started < 20  # far more than it takes, and far less than what a square takes
