"""Transcript: writes a conversation as it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaykit_gateway.acp_client import Json, SessionEnded
from relaykit_gateway.terminal.markdown import Markdown
from relaykit_gateway.terminal.screen import Screen, Style, printable, shortened

_LINE = 100  # characters of a tool's title, or of a plan's entry
_QUIET_OUTCOMES = frozenset({"DONE", "SKIPPED"})
_PLAN_MARKS = {"pending": "[ ]", "in_progress": "[~]", "completed": "[x]"}
_TOOL_ENDS = {"completed": ("done", Style.DIM), "failed": ("failed", Style.RED)}


@dataclass(slots=True)
class _ToolCall:
    title: str
    shown: str  # the title that stands on its line
    status: str = ""


class Transcript:
    """Writes what is said. What the agent says comes in pieces; everything else begins a line of its own.

    Where the screen has colours, the agent's markdown is rendered. A line is never written anew: a tool call
    that ends while nothing else was written is ended on its own line, any other on a new one.

    :param prompts: whether to show where something can be typed.
    """

    def __init__(self, screen: Screen, *, prompts: bool) -> None:
        self._screen = screen
        self._markdown = Markdown(screen) if screen.colours else None
        self._prompts = prompts
        self._in_line = False
        self._speaking = ""  # the kind of the pieces that are coming
        self._calls: dict[str, _ToolCall] = {}
        self._open_call = ""  # the id of the one on whose line we are
        self._plan: dict[str, str] = {}

    def note(self, text: str, style: Style = Style.DIM) -> None:
        """Write a line about the conversation."""
        self.end_line()
        self._screen.line(printable(text), style)

    def end_line(self) -> None:
        """Have what comes next begin a line."""
        if self._markdown is not None:
            self._markdown.end()
        if self._in_line:
            self._screen.line()
        self._in_line, self._speaking, self._open_call = False, "", ""

    def prompt(self, text: str = "> ") -> None:
        """Show that something can be typed."""
        if self._prompts:
            self.end_line()
            self._screen.write(text, Style.BOLD)
            self._in_line = True

    def typed(self, line: str) -> None:
        """Know that a line was typed: a terminal has shown it, and its end; else it is written."""
        if self._prompts:
            self._in_line = False
        else:
            self.note(f"> {line}", Style.BOLD)

    def pressed(self, name: str) -> None:
        """Write what the key that was pressed stands for; nobody else has shown it."""
        self._screen.line(printable(name), Style.BOLD)
        self._in_line = False

    def update(self, update: Json) -> None:
        """Write what the agent, or another client, says or does; kinds that are not known are left out."""
        match update.get("sessionUpdate"):
            case "agent_message_chunk" | "agent_thought_chunk" as kind:
                self._piece(text_of(update.get("content")), kind)
            case "user_message_chunk":
                self.note(f"> {text_of(update.get('content'))}", Style.BOLD)
            case "tool_call" | "tool_call_update":
                self._tool_call(update)
            case "plan":
                self._plan_changed(objects(update.get("entries")))
            case "current_mode_update":
                self.note(f"(mode: {update.get('currentModeId')})")
            case _:
                pass

    def turn_end(self, stop_reason: str) -> None:
        """Write that the agent has answered."""
        self.end_line()
        self._calls.clear()
        self._plan.clear()
        if stop_reason != "end_turn":
            self.note(f"({stop_reason})")

    def crashed(self, reason: str) -> None:
        """Write that the agent ended by itself."""
        self.note(f"(the agent crashed, and is started again: {shortened(reason, _LINE)})", Style.YELLOW)

    def asleep(self, reason: str) -> None:
        """Write that the agent was stopped for now."""
        self.note(f"(asleep: {shortened(reason, _LINE)})")

    def awake(self) -> None:
        """Write that the agent runs again."""
        self.note("(awake again)")

    def wake_failed(self, reason: str) -> None:
        """Write that the agent does not run again."""
        self.note(f"(asleep still, the agent could not be started: {reason})", Style.YELLOW)

    def ended(self, event: SessionEnded) -> None:
        """Write how the session ended, and what is left of it on purpose."""
        self.note(f"the session has ended: {event.reason}")
        for result in event.cleanup:
            if result.get("outcome") not in _QUIET_OUTCOMES:
                self.note(f"{result.get('cleaner')}: {result.get('detail')}", Style.YELLOW)

    def title_of(self, tool_call: Json) -> str:
        """Return what a tool call is called, in what is said of it now or before; empty if it was not said.

        Many agents begin with the name of the tool, and say in the request for permission what it will do.
        """
        known = self._calls.get(str(tool_call.get("toolCallId")))
        title = str(tool_call.get("title") or (known.title if known else ""))
        if known is not None:
            known.title = title
        return title

    def _piece(self, said: str, kind: str) -> None:
        text = printable(said)
        if not text:
            return
        if kind != self._speaking:
            self.end_line()
            self._speaking = kind
        if kind == "agent_thought_chunk":
            self._screen.write(text, Style.DIM)
        elif self._markdown is not None:
            self._markdown.write(text)
        else:
            self._screen.write(text)
        self._in_line = not text.endswith("\n")

    def _tool_call(self, update: Json) -> None:
        call_id = str(update.get("toolCallId"))
        title = self.title_of(update) or call_id
        call = self._calls.get(call_id)
        if call is None:
            call = self._calls[call_id] = _ToolCall(title, shown=title)
            self.end_line()
            self._screen.write(f"* {shortened(title, _LINE)}{kind_of(update)}", Style.CYAN)
            self._in_line, self._open_call = True, call_id
        elif title != call.shown and self._open_call == call_id:
            self._screen.write(f": {shortened(title, _LINE)}", Style.CYAN)
            call.shown = title
        status = str(update.get("status") or call.status)
        if status != call.status and status in _TOOL_ENDS:
            word, style = _TOOL_ENDS[status]
            if self._open_call == call_id:
                self._screen.write(f": {word}", style)
                self.end_line()
            else:
                self.note(f"* {shortened(title, _LINE)}: {word}", style)
        call.status = status

    def _plan_changed(self, entries: Sequence[Json]) -> None:
        """Write those entries of a plan that have changed: agents send all of it, each time."""
        plan = {str(entry.get("content")): str(entry.get("status")) for entry in entries}
        for content, status in plan.items():
            if self._plan.get(content) != status:
                mark = _PLAN_MARKS.get(status, f"[{status}]")
                self.note(f"{mark} {shortened(content, _LINE)}", Style.CYAN)
        self._plan = plan


def objects(value: Any) -> Sequence[Json]:
    """Return the objects among the items of what should be a list of them."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def kind_of(tool_call: Json) -> str:
    """Return a tool call's kind in brackets, behind a space; nothing if it says nothing."""
    kind = tool_call.get("kind")
    return f" ({printable(str(kind))})" if kind and kind != "other" else ""


def text_of(content: Any) -> str:
    """Return what can be shown of one of ACP's content blocks."""
    if not isinstance(content, Mapping):
        return ""
    return str(content["text"]) if "text" in content else f"[{content.get('type')}]"
