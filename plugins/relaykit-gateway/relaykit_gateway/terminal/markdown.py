"""Markdown: writes an agent's markdown to a terminal while it comes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relaykit_gateway.terminal.screen import Screen, Style, printable

_HELD = 4096
"""Characters of a line that may wait for what makes sense of them; then they are written as they are."""

_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+")
_QUOTE = re.compile(r" {0,3}>[ \t]?")
_BULLET = re.compile(r"([ \t]*)[-*+][ \t]+")
_NUMBER = re.compile(r"([ \t]*)(\d{1,9}[.)])[ \t]+")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}")
_FENCE = re.compile(r"[ \t]*(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*)")
_MAYBE_FENCE = re.compile(r"[ \t]*(?:`{3,}[^`]*|~{3,}.*)")
_MAYBE_MARKER = re.compile(r"#{1,6}|[-*_][-*_ \t]*|\+|\d{1,9}[.)]?|`+|~+")

_PLAIN = re.compile(r"[^\\`*_\[!]+")
_CODE = re.compile(r"(`+)(?!`)(.{1,1000}?)(?<!`)\1(?!`)")
_STRONG = re.compile(r"(\*\*|__)(?=\S)(.{1,1000}?)(?<=\S)\1(?!\*)")
_EMPHASIS = re.compile(r"([*_])(?=[^\s*_])(.{1,1000}?)(?<=[^\s*_])\1(?![*\w])")
_LINK = re.compile(
    r"!?\[([^\]]{0,1000})\]\(([^()\s]{0,1000}(?:\([^()\s]{0,1000}\))?)(?:[ \t]+\"[^\"]{0,1000}\")?\)"
)
_NO_LINK = re.compile(r"!?\[[^\]]{0,1000}\][^(]")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")

_Piece = tuple[str, str]  # text, and the SGR parameters that it is written with


class Markdown:
    """Writes pieces of markdown, and never has to take anything back.

    What is said of a line is written as soon as it is known how it looks, which for most text is at once; a
    ``**`` waits for its partner, or for the end of the line. Headings, lists, quotes, rules, code, emphasis and
    links are shown; everything else (tables, HTML) stays as it is. Lines are not wrapped: terminals do that,
    and again when they are resized.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._fence = ""  # the one that ends the block of code in which we are
        self._held = ""
        self._base: str | None = None  # the style of the line, once its kind is known
        self._before = ""  # the last character that was written of it

    def write(self, text: str) -> None:
        """Write the next piece, cleaned of what would change the terminal."""
        first, *others = printable(text).split("\n")
        out = self._more(first)
        for line in others:
            out += self._end_line() + self._more(line)
        if out:
            self._screen.write(out)

    def end(self) -> None:
        """Write what still waits, and begin anew: a block of code that was left open has ended too."""
        rest = self._settle(complete=True)
        if rest:
            self._screen.write(rest)
        self._fence, self._base, self._before = "", None, ""

    # ------------------------------------------------------------ lines

    def _more(self, text: str) -> str:
        self._held += text
        return self._settle(complete=len(self._held) > _HELD)

    def _end_line(self) -> str:
        line = self._settle(complete=True)
        self._base, self._before = None, ""
        return f"{line}\n"

    def _settle(self, *, complete: bool) -> str:
        """Return what can be written of the line by now.

        :param complete: nothing comes any more that would make another sense of it.
        """
        out = ""
        if self._base is None:
            if not complete and self._may_be_a_marker():
                return ""
            out = self._begin_line()
        if not self._held:
            return out
        if self._fence:
            text, self._held = self._held, ""
            return out + self._screen.styled(text, Style.CYAN)
        held = self._held
        pieces, self._held = _split_inline(held, self._base or "", self._before, complete=complete)
        self._before = held[: len(held) - len(self._held)][-1:] or self._before
        return out + "".join(self._screen.styled(text, style) for text, style in pieces)

    def _may_be_a_marker(self) -> bool:
        if self._fence:
            return not self._held.strip(" \t" + self._fence[0])
        if _MAYBE_FENCE.fullmatch(self._held):
            return True
        mark = self._held.lstrip(" \t>").rstrip(" \t")
        return not mark or _MAYBE_MARKER.fullmatch(mark) is not None

    def _begin_line(self) -> str:
        """Take the marker off the line, and return how it looks."""
        line = self._held
        self._base = ""
        if self._fence:
            return self._end_code(line)
        if fence := _FENCE.fullmatch(line):
            self._held, self._fence = "", fence[1]
            return self._screen.styled(line, Style.DIM)
        if _RULE.fullmatch(line):
            self._held = ""
            return self._screen.styled("─" * 40, Style.DIM)
        if heading := _HEADING.match(line):
            self._held = line[heading.end() :]
            self._base = _add(Style.BOLD, Style.UNDERLINE) if len(heading[1]) == 1 else Style.BOLD
            return ""
        return self._begin_paragraph()

    def _end_code(self, line: str) -> str:
        mark = line.strip()
        if len(mark) < len(self._fence) or mark.strip(self._fence[0]):
            return ""
        self._held, self._fence = "", ""
        return self._screen.styled(line, Style.DIM)

    def _begin_paragraph(self) -> str:
        out = ""
        while quote := _QUOTE.match(self._held):
            self._held = self._held[quote.end() :]
            out += self._screen.styled("│ ", Style.DIM)
        if bullet := _BULLET.match(self._held):
            self._held = self._held[bullet.end() :]
            return f"{out}{bullet[1]}{self._screen.styled('•', Style.CYAN)} "
        if number := _NUMBER.match(self._held):
            self._held = self._held[number.end() :]
            return f"{out}{number[1]}{self._screen.styled(number[2], Style.CYAN)} "
        return out


def _add(style: str, more: str) -> str:
    return f"{style};{more}" if style else more


def _split_inline(text: str, style: str, before: str, *, complete: bool) -> tuple[list[_Piece], str]:
    """Return the pieces of a line's text that are settled, and the rest.

    :param before: the character before the text, or empty.
    """
    pieces: list[_Piece] = []
    position = 0
    while position < len(text):
        if plain := _PLAIN.match(text, position):
            pieces.append((plain[0], style))
            end = plain.end()
        elif found := _construct(text, position, before, style, complete=complete):
            end, inner = found
            pieces += inner
        elif not complete and _may_begin(text, position, before):
            break
        else:
            end = _end_of_run(text, position)
            pieces.append((text[position:end], style))
        position, before = end, text[end - 1]
    return pieces, text[position:]


def _construct(
    text: str, position: int, before: str, style: str, *, complete: bool
) -> tuple[int, list[_Piece]] | None:
    """Return the end and the pieces of what begins here, if it is whole, and what follows cannot make it another."""
    for pattern, pieces in _CONSTRUCTS:
        found = pattern.match(text, position)
        if found is None or (text[position] == "_" and before.isalnum()):  # snake_case
            continue
        if complete or found.end() < len(text) or pattern is _ESCAPE:
            return found.end(), list(pieces(found, style))
        return None
    return None


def _may_begin(text: str, position: int, before: str) -> bool:
    """Tell whether more text could make a construct of what begins here."""
    character = text[position]
    if character == "`":
        return True
    if character == "[" or text.startswith("![", position):
        return _NO_LINK.match(text, position) is None
    if character in "*_" and not (character == "_" and before.isalnum()):
        rest = text[position:].lstrip(character)
        return not rest or not rest[0].isspace()
    return position + 1 == len(text)  # a backslash or an exclamation mark


def _end_of_run(text: str, position: int) -> int:
    """Return where a character that means nothing ends, with those that belong to it: half of ``**`` is no ``*``."""
    end = position + 1
    while text[position] in "`*_" and end < len(text) and text[end] == text[position]:
        end += 1
    return end


def _inner(text: str, style: str) -> list[_Piece]:
    return _split_inline(text, style, "", complete=True)[0]


def _link(found: re.Match[str], style: str) -> Iterator[_Piece]:
    label, target = found[1], found[2]
    if label and label != target:
        yield from _inner(label, _add(style, Style.UNDERLINE))
        yield f" ({target})", _add(style, Style.DIM)
    else:
        yield target, _add(style, Style.UNDERLINE)


_CONSTRUCTS = (
    (_ESCAPE, lambda found, style: [(found[1], style)]),
    (_CODE, lambda found, style: [(found[2], _add(style, Style.CYAN))]),
    (_STRONG, lambda found, style: _inner(found[2], _add(style, Style.BOLD))),
    (_EMPHASIS, lambda found, style: _inner(found[2], _add(style, Style.ITALIC))),
    (_LINK, _link),
)
