"""Asker: puts an agent's questions to the person at the terminal, or to a script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from relaykit_gateway.acp_client import ELICITATION, PERMISSION, Json, Question
from relaykit_gateway.chat.forms import BadValue, Field, fields_of
from relaykit_gateway.chat.permissions import choose, keys_of, options_of
from relaykit_gateway.chat.transcript import Transcript, kind_of, objects
from relaykit_gateway.terminal.lines import Lines
from relaykit_gateway.terminal.screen import Style, shortened

_TITLE = 2000  # characters: who permits something should see it whole
_LINE = 200
_MOST_KEYS = 9
_DECLINE = "/decline"


class _Declined(Exception):
    """A form is not to be filled in."""


class Asker:
    """Asks, and returns the answer. Cancelled, it has answered nothing.

    On a terminal, what one key can answer is answered by one key; else a line is read.

    :param read_line: reads a line, and lets its reader act on what is no answer.
    """

    def __init__(
        self, transcript: Transcript, lines: Lines, read_line: Callable[[str], Awaitable[str]]
    ) -> None:
        self._transcript = transcript
        self._lines = lines
        self._read_line = read_line

    @classmethod
    def on(cls, lines: Lines, transcript: Transcript) -> Self:
        """Return one whose lines are answers, and nothing else."""

        async def read_line(prompt: str) -> str:
            transcript.prompt(prompt)
            line = await lines.next()
            transcript.typed(line)
            return line

        return cls(transcript, lines, read_line)

    def can_ask(self, question: Question) -> bool:
        """Tell whether it is a question that can be answered here."""
        if question.method == PERMISSION:
            return bool(options_of(question.params))
        return question.method == ELICITATION and question.params.get("mode", "form") in {"form", "url"}

    async def ask(self, question: Question) -> Json:
        """Ask one that can be answered here, and return the result to answer with.

        :raises EndOfStream: (anyio's) there is nobody to answer any more.
        """
        self._lines.discard()
        if question.method == PERMISSION:
            return await self._ask_permission(question.params)
        if question.params.get("mode") == "url":
            return await self._ask_to_visit(question.params)
        return await self._ask_form(question.params)

    # ------------------------------------------------------------ permissions

    async def _ask_permission(self, params: Json) -> Json:
        options = options_of(params)
        keys = keys_of(options)
        self._show_tool_call(params.get("toolCall"))
        for number, option in enumerate(options, start=1):
            letter = next(
                (f" [{key}]" for key, meant in keys.items() if meant is option and key.isalpha()), ""
            )
            self._option(number, f"{option.get('name')}{letter}")
        option = await self._choose(options)
        return {"outcome": {"outcome": "selected", "optionId": option.get("optionId")}}

    async def _choose(self, options: Sequence[Json]) -> Json:
        if self._lines.on_terminal and len(options) <= _MOST_KEYS:
            return await self._press(keys_of(options))
        while True:
            line = await self._read_line("? ")
            option = choose(options, line)
            if option is not None:
                return option
            self._transcript.note(f"{line!r} is none of the answers")

    async def _press(self, keys: Mapping[str, Json]) -> Json:
        with self._lines.keys():
            self._transcript.prompt(f"[{'/'.join(keys)}] ")
            option = None
            while option is None:
                option = keys.get((await self._lines.key()).casefold())
        self._transcript.pressed(str(option.get("name")))
        return option

    def _show_tool_call(self, tool_call: Any) -> None:
        call: Json = tool_call if isinstance(tool_call, Mapping) else {}
        title = self._transcript.title_of(call) or "the agent asks for a permission"
        self._transcript.note(shortened(f"? {title}{kind_of(call)}", _TITLE), Style.YELLOW)
        for content in objects(call.get("content")):
            if content.get("type") == "diff":
                self._transcript.note(f"  changes {shortened(str(content.get('path')), _LINE)}", Style.YELLOW)

    def _option(self, number: int, text: str) -> None:
        self._transcript.note(f"  {number}  {shortened(text, _LINE)}", Style.YELLOW)

    # ------------------------------------------------------------ elicitations

    async def _ask_to_visit(self, params: Json) -> Json:
        self._transcript.note(shortened(f"? {params.get('message')}", _TITLE), Style.YELLOW)
        self._transcript.note(f"  {shortened(str(params.get('url')), _TITLE)}", Style.YELLOW)
        accept: Json = {"name": "I go there", "optionId": "accept", "kind": "allow_once"}
        decline: Json = {"name": "No", "optionId": "decline", "kind": "reject_once"}
        self._option(1, "I go there [y]")
        self._option(2, "No [n]")
        return {"action": (await self._choose([accept, decline]))["optionId"]}

    async def _ask_form(self, params: Json) -> Json:
        self._transcript.note(shortened(f"? {params.get('message')}", _TITLE), Style.YELLOW)
        self._transcript.note(f"({_DECLINE} answers nothing)")
        content = {}
        for field in fields_of(params):
            self._show_field(field)
            try:
                value = await self._fill_in(field)
            except _Declined:
                return {"action": "decline"}
            if value is not None:
                content[field.name] = value
        return {"action": "accept", "content": content}

    async def _fill_in(self, field: Field) -> Any:
        while True:
            typed = await self._read_line(f"{shortened(field.title, _LINE)}: ")
            if typed.strip() == _DECLINE:
                raise _Declined
            try:
                return field.read(typed)
            except BadValue as error:
                self._transcript.note(str(error), Style.YELLOW)

    def _show_field(self, field: Field) -> None:
        said = " ".join(part for part in (str(field.schema.get("description") or ""), field.hint) if part)
        hint = f": {said}" if said else ""
        self._transcript.note(f"  {shortened(f'{field.title}{hint}', _TITLE)}", Style.YELLOW)
        for number, (_, title) in enumerate(field.choices, start=1):
            self._option(number, title)
