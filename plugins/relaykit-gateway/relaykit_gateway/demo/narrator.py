"""Narrator: prints what happens in a demo, as it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relaykit.session import Transition
from relaykit_gateway.terminal.screen import Screen, Style, shortened

_DETAIL = 64  # characters
_UNTOLD = frozenset({"version", "type", "sessionId", "requestId", "seq", "timestamp", "serverId"})
_PROSE = frozenset({"content", "reason"})


class Narrator:
    """Prints a line for each thing that happens: when, who, and what.

    :param now: seconds, from any beginning; times are shown since this was made.
    """

    def __init__(self, screen: Screen, now: Callable[[], float]) -> None:
        self._screen = screen
        self._now = now
        self._began = now()

    def heading(self, text: str) -> None:
        """Begin a part of the story."""
        self._screen.line()
        self._screen.line(text, Style.BOLD)

    def fact(self, who: str, text: str) -> None:
        """Tell what is so."""
        self._line(who, " ", text, "", Style.PLAIN)

    def proof(self, text: str) -> None:
        """Tell what was looked for, and is as it should be."""
        self._line("check", "✓", text, "", Style.GREEN)

    def excerpt(self, text: str) -> None:
        """Show lines of something."""
        for line in text.splitlines():
            self._screen.line(f"{'':21}{line}", Style.DIM)

    def transition(self, transition: Transition) -> None:
        """Tell of a session's step from one state to the next."""
        before, after = transition.before, transition.after
        step = f"{before.state} → {after.state}" if before else f"{after.state}"
        self._line("session", "●", step, "", Style.MAGENTA)

    def sent(self, type_: str, fields: Mapping[str, Any]) -> None:
        """Tell what the client says."""
        self._line("client", "→", type_, _detail(type_, fields), Style.CYAN)

    def received(self, message: Mapping[str, Any]) -> None:
        """Tell what the client hears."""
        self._line("client", "←", message["type"], _detail(message["type"], message), Style.GREEN)

    def end(self, text: str, style: Style) -> None:
        """Say the last word."""
        self._screen.line()
        self._screen.line(text, style)

    def _line(self, who: str, sign: str, what: str, detail: str, style: Style) -> None:
        screen = self._screen
        at = screen.styled(f"{self._now() - self._began:7.3f} s", Style.DIM)
        what = what.ljust(20) if detail else what
        screen.line(f"{at}  {who:<8}{screen.styled(f'{sign} {what}', style)}  {detail}".rstrip())


def _detail(type_: str, message: Mapping[str, Any]) -> str:
    """Return the part of a message that people want to see."""
    if type_ == "agent:update":
        update = message["update"]
        content = update.get("content")
        text = content.get("text") if isinstance(content, Mapping) else None
        return _quoted(text) if isinstance(text, str) else str(update.get("sessionUpdate"))
    if type_ == "permission:request":
        options = ", ".join(f"{option['name']} ({option['optionId']})" for option in message["options"])
        return shortened(f"{_quoted(message['toolCall'].get('title', ''))}: {options}", _DETAIL)
    if type_ == "session:terminated":
        cleaned = ", ".join(f"{result['cleaner']} {result['outcome']}" for result in message["cleanup"])
        return shortened(f"{message['reason']}; cleaned up: {cleaned}", _DETAIL)
    if type_ == "error":
        return shortened(f"{message['error']['code']}: {message['error']['message']}", _DETAIL)
    told = [
        f"{key}={_quoted(value) if key in _PROSE and isinstance(value, str) else value}"
        for key, value in message.items()
        if key not in _UNTOLD
    ]
    return shortened("  ".join(told), _DETAIL)


def _quoted(text: str) -> str:
    return f"“{shortened(text, _DETAIL - 2)}”"
