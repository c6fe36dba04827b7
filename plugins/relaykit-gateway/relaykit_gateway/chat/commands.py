"""What a line that begins with a slash does in a chat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from relaykit_gateway.acp_client import AcpClient, AcpError, Json
from relaykit_gateway.chat.choices import Choices
from relaykit_gateway.chat.prompts import BadImage, read_image_prompt, read_prompt
from relaykit_gateway.chat.transcript import Transcript, objects
from relaykit_gateway.terminal.screen import Style, shortened

_LINE = 100
_HELP = (
    ("/mode [NAME]", "show the agent's modes, or switch"),
    ("/model [NAME]", "show the agent's models, or switch"),
    ("/image PATH [TEXT]", "send an image; @path.png in a text does so too"),
    ("/stop", "end the session"),
    ("//…", "a line for the agent that begins with one slash"),
    ("Ctrl-C", "cancel the turn; twice: leave, the session lives on"),
)


class Commands:
    """Acts on the commands of a chat, and makes a prompt of every other line.

    What the agent has commands of its own for goes to the agent.
    """

    def __init__(self, client: AcpClient, transcript: Transcript) -> None:
        self._client = client
        self._transcript = transcript
        self._session_id = ""
        self._choices = Choices({})
        self._agents_own: Sequence[Json] = ()
        self._known: Mapping[str, Callable[[str], Awaitable[Sequence[Json] | None]]] = {
            "/help": self._help,
            "/mode": self._mode,
            "/model": self._model,
            "/image": read_image_prompt,
        }

    def opened(self, session_id: str, result: Json) -> None:
        """Know the session: the answer by which it was opened."""
        self._session_id = session_id
        self._choices = Choices(result)

    def heard(self, update: Json) -> None:
        """Take note of an update."""
        self._choices.heard(update)
        if update.get("sessionUpdate") == "available_commands_update":
            self._agents_own = objects(update.get("availableCommands"))

    async def run(self, line: str) -> Sequence[Json] | None:
        """Act on a line; return what is to be said to the agent, or None for nothing."""
        word, _, arguments = line.strip().partition(" ")
        try:
            if word in self._known:
                return await self._known[word](arguments.strip())
            return await read_prompt(line.removeprefix("/") if line.startswith("//") else line)
        except (AcpError, BadImage) as error:
            self._transcript.note(str(error), Style.RED)
            return None

    async def _help(self, _arguments: str) -> None:
        for command, meaning in _HELP:
            self._transcript.note(f"{command:20} {meaning}")
        for own in self._agents_own:
            name, meaning = shortened(f"/{own.get('name')}", _LINE), str(own.get("description") or "")
            self._transcript.note(f"{name:20} {shortened(meaning, _LINE)}")

    async def _mode(self, arguments: str) -> None:
        await self._switch("mode", arguments)

    async def _model(self, arguments: str) -> None:
        await self._switch("model", arguments)

    async def _switch(self, category: str, wanted: str) -> None:
        choice = self._choices.get(category)
        if choice is None:
            self._transcript.note(f"the agent offers no {category} to choose")
            return
        option = choice.find(wanted) if wanted else None
        if option is None:
            if wanted:
                self._transcript.note(f"{wanted!r} is no {category} of the agent's", Style.YELLOW)
            for number, (option_id, name) in enumerate(choice.options, start=1):
                mark = "*" if option_id == choice.current else " "
                self._transcript.note(
                    f"{mark} {number}  {shortened(name, _LINE)} ({shortened(option_id, _LINE)})"
                )
            return
        params = {"sessionId": self._session_id, **choice.params, choice.key: option}
        self._choices.switched(category, option, await self._client.call(choice.method, params))
        self._transcript.note(f"{category}: {option}")
