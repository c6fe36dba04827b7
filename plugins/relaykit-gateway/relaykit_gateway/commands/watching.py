"""``relaykit sessions list --watch``: the sessions as they are, again and again."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from relaykit_gateway.address import ClientError
from relaykit_gateway.terminal.screen import Screen, Style, printable, shortened

Json = Mapping[str, Any]

_HOME = "\x1b[H"
_BEGIN, _END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen, without a cursor; and back
_CLEAR_LINE, _CLEAR_REST = "\x1b[K", "\x1b[J"

_HEADER = (
    "ROLE",
    "AGENT",
    "OWNER",
    "PROJECT",
    "STATE",
    "MESSAGES",
    "A SECOND",
    "CLIENTS",
    "WAITS FOR YOU",
    "ID",
)


class Rates:
    """How many messages a second each session has relayed since it was looked at last.

    :param now: returns the seconds of a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: dict[str, tuple[float, int]] = {}

    def of(self, sessions: Sequence[Json]) -> dict[str, float]:
        """Return the rates, by id: 0 for a session that was not there before."""
        now = self._now()
        rates = {}
        for session in sessions:
            at, count = self._last.get(session["id"], (now, session["messageCount"]))
            seconds = now - at
            rates[session["id"]] = max(session["messageCount"] - count, 0) / seconds if seconds > 0 else 0.0
        self._last = {session["id"]: (now, session["messageCount"]) for session in sessions}
        return rates


def watch(
    look: Callable[[], Sequence[Json]], *, state_of: Callable[[Json], str], seconds: float, as_json: bool
) -> None:
    """Show what `look` returns every so many seconds, until Ctrl-C.

    :param as_json: one line of JSON each time, with `messagesPerSecond`; else a table that fills the terminal.
    :raises ClientError: the relay does not answer; or there is no terminal to show a table on.
    """
    rates = Rates(time.monotonic)
    if as_json:
        _repeat(lambda: _write_line(look(), rates), seconds)
        return
    if not sys.stdout.isatty():
        raise ClientError("--watch shows a table on a terminal; for a program, add --json")
    screen = Screen.on(sys.stdout)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)  # else the terminal would keep the other screen
    screen.write(_BEGIN)
    try:
        _repeat(lambda: _draw(screen, look(), rates, state_of), seconds)
    finally:
        screen.write(_END)


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _repeat(show: Callable[[], None], seconds: float) -> None:
    try:
        while True:
            show()
            time.sleep(seconds)
    except KeyboardInterrupt:
        return  # that is how one leaves


def _write_line(sessions: Sequence[Json], rates: Rates) -> None:
    known = rates.of(sessions)
    told = [{**session, "messagesPerSecond": round(known[session["id"]], 1)} for session in sessions]
    sys.stdout.write(json.dumps(told, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _draw(screen: Screen, sessions: Sequence[Json], rates: Rates, state_of: Callable[[Json], str]) -> None:
    size = shutil.get_terminal_size()
    known = rates.of(sessions)
    waiting = sum(session["questions"] for session in sessions)
    ordered = sorted(sessions, key=lambda session: (-session["questions"], session["agentId"], session["id"]))
    rows = [_row(session, known[session["id"]], state_of) for session in ordered]
    lines = [_HEADER, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = f"{len(sessions)} sessions, {sum(known.values()):.0f} messages a second, {waiting} questions wait; Ctrl-C"
    shown = [screen.styled(told[: size.columns - 1], Style.DIM)]
    for line, session in zip(lines, [None, *ordered], strict=True):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        style = Style.BOLD if session is None else Style.YELLOW if session["questions"] else Style.PLAIN
        shown.append(screen.styled(text[: size.columns - 1], style))
    room = max(size.lines - 1, 2)
    if len(shown) > room:
        shown = [*shown[: room - 1], f"and {len(shown) - room + 1} more"]
    screen.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in shown) + _CLEAR_REST)


def _row(session: Json, rate: float, state_of: Callable[[Json], str]) -> Sequence[str]:
    return (
        *(shortened(printable(str(session[key])), 24) for key in ("agentId", "agent", "owner", "project")),
        state_of(session),
        str(session["messageCount"]),
        f"{rate:.0f}" if rate else "",
        str(session["clients"]),
        str(session["questions"] or ""),
        session["id"],
    )
