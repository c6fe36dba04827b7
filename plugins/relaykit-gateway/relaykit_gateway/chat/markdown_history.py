"""MarkdownTeller: a recorded transcript as a Markdown document."""

from __future__ import annotations

from typing import TextIO

from relaykit_gateway.acp_client import Json
from relaykit_gateway.chat.history import asked, called, ended_of
from relaykit_gateway.chat.transcript import kind_of, text_of
from relaykit_gateway.terminal.screen import printable, shortened

_TITLE = 2000
_LINE = 200


class MarkdownTeller:
    """Writes headings for who speaks, what they say as they said it, and a list's entry for all else.

    :param agent: what the agent is called.
    """

    def __init__(self, stream: TextIO, *, agent: str) -> None:
        self._stream = stream
        self._agent = agent
        self._titles: dict[str, str] = {}  # of tool calls, by id
        self._speaks = False
        self._in_list = False

    def begin(self, title: str) -> None:
        """Write the document's heading."""
        self._stream.write(f"# {shortened(title, _LINE)}\n")

    def end(self) -> None:
        """End the last line."""
        self._stream.write("\n" if self._speaks or self._in_list else "")

    def prompt(self, text: str, at: str) -> None:
        """Write what was said to the agent."""
        self._heading(f"You, {at}")
        self._stream.write(f"{printable(text)}\n")
        self._heading(self._agent)

    def update(self, update: Json) -> None:
        """Write what the agent said, and what it began or failed to do."""
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                self._say(printable(text_of(update.get("content"))))
            case "user_message_chunk":
                self._item(f"> {shortened(text_of(update.get('content')), _TITLE)}")
            case "tool_call" | "tool_call_update":
                self._tool_call(update)
            case _:
                pass

    def question(self, method: str, params: Json) -> None:
        """Write what the agent asked."""
        self._item(f"**?** {shortened(asked(method, params, self._title_of), _TITLE)}")

    def answer(self, words: str) -> None:
        """Write what was answered, on the same line."""
        self._item(f"**!** {shortened(words, _LINE)}")

    def turn_end(self, stop_reason: str, error: str) -> None:
        """Write how the turn ended, if it is worth a word."""
        if error:
            self._item(f"failed: {shortened(error, _TITLE)}")
        elif stop_reason != "end_turn":
            self._item(f"({shortened(stop_reason, _LINE)})")

    def notice(self, word: str, body: Json) -> None:
        """Write how the session ended, or that it slept."""
        if word == "ended":
            self._item(f"the session has ended: {shortened(ended_of(body).reason, _TITLE)}")
        elif word in {"agent_crashed", "asleep", "wake_failed", "undelivered"}:
            self._item(f"({word.replace('_', ' ')}: {shortened(str(body.get('reason')), _LINE)})")

    def call(self, method: str, params: Json) -> None:
        """Write what else was asked of the agent."""
        self._item(f"({called(method, params)})")

    def _tool_call(self, update: Json) -> None:
        begins = str(update.get("toolCallId")) not in self._titles
        title = shortened(self._title_of(update) or "a tool", _LINE).replace("`", "")
        if begins:
            self._item(f"`{title}`{kind_of(update)}")
        if update.get("status") == "failed":
            self._item(f"`{title}`: failed")

    def _title_of(self, tool_call: Json) -> str:
        call_id = str(tool_call.get("toolCallId"))
        title = str(tool_call.get("title") or self._titles.get(call_id, ""))
        self._titles[call_id] = title
        return title

    def _heading(self, text: str) -> None:
        self._stream.write("\n" if not self._speaks and not self._in_list else "\n\n")
        self._stream.write(f"## {shortened(text, _LINE)}\n\n")
        self._speaks = self._in_list = False

    def _say(self, text: str) -> None:
        if self._in_list:
            self._stream.write("\n\n")
            self._in_list = False
        self._stream.write(text)
        self._speaks = self._speaks or bool(text)

    def _item(self, text: str) -> None:
        if self._speaks:
            self._stream.write("\n\n")
        elif self._in_list:
            self._stream.write("\n")
        self._stream.write(f"- {text}")
        self._speaks, self._in_list = False, True
