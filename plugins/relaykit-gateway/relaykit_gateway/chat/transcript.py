"""Transcript: writes a conversation as it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relaykit_gateway.terminal.screen import Screen, Style, printable, shortened

_LINE = 100  # characters of a tool's title, or of a plan's entry
_QUIET_OUTCOMES = frozenset({"DONE", "SKIPPED"})


class Transcript:
    """Writes what is said. What the agent says comes in pieces; everything else begins a line of its own.

    :param prompts: whether to show where something can be typed.
    """

    def __init__(self, screen: Screen, *, prompts: bool) -> None:
        self._screen = screen
        self._prompts = prompts
        self._in_line = False

    def note(self, text: str, style: Style = Style.DIM) -> None:
        """Write a line about the conversation."""
        self.end_line()
        self._screen.line(printable(text), style)

    def end_line(self) -> None:
        """Have what comes next begin a line."""
        if self._in_line:
            self._screen.line()
            self._in_line = False

    def prompt(self) -> None:
        """Show that something can be typed."""
        if self._prompts:
            self.end_line()
            self._screen.write("> ", Style.BOLD)
            self._in_line = True

    def typed(self, line: str) -> None:
        """Know that a line was typed: a terminal has shown it, and its end; else it is written."""
        if self._prompts:
            self._in_line = False
        else:
            self.note(f"> {line}", Style.BOLD)

    def update(self, update: Mapping[str, Any]) -> None:
        """Write what the agent, or another client, says or does; kinds that are not known are left out."""
        kind = update.get("sessionUpdate")
        if kind == "agent_message_chunk":
            self._piece(_text_of(update.get("content")), Style.PLAIN)
        elif kind == "agent_thought_chunk":
            self._piece(_text_of(update.get("content")), Style.DIM)
        elif kind == "user_message_chunk":
            self.note(f"> {_text_of(update.get('content'))}", Style.BOLD)
        elif kind == "tool_call":
            self.note(f"* {shortened(str(update.get('title')), _LINE)}", Style.CYAN)
        elif kind == "tool_call_update" and update.get("status") == "failed":
            self.note(
                f"* failed: {shortened(str(update.get('title') or update.get('toolCallId')), _LINE)}",
                Style.RED,
            )
        elif kind == "plan":
            for entry in _objects(update.get("entries")):
                self.note(
                    f"- {shortened(str(entry.get('content')), _LINE)} ({entry.get('status')})", Style.CYAN
                )

    def turn_end(self, stop_reason: str) -> None:
        """Write that the agent has answered."""
        self.end_line()
        if stop_reason != "end_turn":
            self.note(f"({stop_reason})")

    def question(self, request: Mapping[str, Any]) -> None:
        """Write what the agent asks, and the answers that it takes."""
        tool_call = request["toolCall"]
        title = tool_call.get("title") if isinstance(tool_call, Mapping) else None
        self.note(f"? {shortened(str(title or 'the agent asks for a permission'), _LINE)}", Style.YELLOW)
        for number, option in enumerate(_objects(request["options"]), start=1):
            name = shortened(f"{option.get('name')} ({option.get('optionId')})", _LINE)
            self.note(f"  {number}  {name}", Style.YELLOW)

    def terminated(self, message: Mapping[str, Any]) -> None:
        """Write how the session ended, and what is left of it on purpose."""
        self.note(f"the session has ended: {message['reason']}")
        for result in message["cleanup"]:
            if result["outcome"] not in _QUIET_OUTCOMES:
                self.note(f"{result['cleaner']}: {result['detail']}", Style.YELLOW)

    def _piece(self, text: str, style: Style) -> None:
        if text:
            self._screen.write(printable(text), style)
            self._in_line = not text.endswith("\n")


def choose(request: Mapping[str, Any], line: str) -> str | None:
    """Return the id of the option that was typed, by number, id or name; None if it is none of them."""
    options = _objects(request["options"])
    typed = line.strip().casefold()
    for number, option in enumerate(options, start=1):
        if typed in {str(number), str(option.get("optionId")).casefold(), str(option.get("name")).casefold()}:
            return str(option.get("optionId"))
    return None


def _objects(value: Any) -> Sequence[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _text_of(content: Any) -> str:
    if not isinstance(content, Mapping):
        return ""
    return str(content["text"]) if "text" in content else f"[{content.get('type')}]"
