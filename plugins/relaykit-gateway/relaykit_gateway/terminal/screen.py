"""Screen: what a command writes, in colours where somebody looks at it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from typing import Self, TextIO

_CONTROL = (*range(0x20), *range(0x7F, 0xA0))
_REORDERING = (
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)  # Unicode's bidirectional overrides and isolates
_REMOVED = {code: None for code in (*_CONTROL, *_REORDERING) if chr(code) not in "\n\t"}


class Style(StrEnum):
    """How a piece of text looks: the parameters of ANSI's SGR sequence."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    ITALIC = "3"
    UNDERLINE = "4"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    MAGENTA = "35"
    CYAN = "36"


class Screen:
    """Writes to a stream, at once.

    :param colours: whether styles show.
    """

    def __init__(self, stream: TextIO, *, colours: bool) -> None:
        self.colours = colours
        self._stream = stream

    @classmethod
    def on(cls, stream: TextIO, environ: Mapping[str, str] = os.environ, *, plain: bool = False) -> Self:
        """Return a screen that has colours if the stream is a terminal that knows them, and NO_COLOR is not set.

        What the stream's encoding does not have becomes ``?`` from now on.

        :param plain: no colours, whatever the stream is.
        """
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
        wanted = not plain and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        return cls(stream, colours=wanted and stream.isatty())

    def write(self, text: str, style: str = Style.PLAIN) -> None:
        """Write a piece of text, without the end of a line."""
        self._stream.write(self.styled(text, style))
        self._stream.flush()

    def line(self, text: str = "", style: str = Style.PLAIN) -> None:
        """Write a line."""
        self.write(self.styled(text, style) + "\n")

    def styled(self, text: str, style: str) -> str:
        """Return the text in a style, or in several joined by ``;``, or as it is where styles do not show."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colours and style and text else text


def printable(text: str) -> str:
    """Return a text of somebody else without what would change the terminal, or the order of what is seen."""
    return text.translate(_REMOVED)


def shortened(text: str, length: int) -> str:
    """Return a text on one line, and cut to a length."""
    line = " ".join(printable(text).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


@contextmanager
def bare_broken_pipe() -> Iterator[None]:
    """Have a BrokenPipeError come out of task groups alone: whoever reads our output has gone, which is no error.

    The command line makes an exit code of it.
    """
    try:
        yield
    except ExceptionGroup as group:
        if group.subgroup(BrokenPipeError) is not None:
            raise BrokenPipeError from group
        raise
