"""The echo agent with a memory: what it was told in a session is still known to its next process.

``python remembering_agent.py DIRECTORY [FLAG …]``. A prompt ``/recall`` makes it say what it was told, in order.

==================== ====================================================================================
``--only-load``      offers ``session/load``, which replays everything, and no ``session/resume``
``--forgetful``      offers neither
==================== ====================================================================================
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from relaykit_acp.echo_agent import Echo

NOT_FOUND = -32002


class Remembering(Echo):
    def __init__(self, directory: Path, flags: list[str]) -> None:
        super().__init__(flags)
        self._directory = directory
        self._methods |= {"session/load": self._load, "session/resume": self._resume}
        self._directives["/recall"] = lambda _words: " | ".join(self._memory())

    def _answer(self, raw_id: Any, result: dict[str, Any]) -> None:
        capabilities = result.get("agentCapabilities")
        if capabilities is not None and self._flags_has("--only-load", "--forgetful"):
            del capabilities["sessionCapabilities"]["resume"]
            capabilities["loadSession"] = not self._flags_has("--forgetful")
        super()._answer(raw_id, result)

    def _prompt(self, raw_id: Any, params: dict[str, Any]) -> None:
        text = "".join(block.get("text", "") for block in params["prompt"])
        if text != "/recall":
            with self._file().open("a") as file:
                file.write(json.dumps(text) + "\n")
        super()._prompt(raw_id, params)

    def _load(self, raw_id: Any, params: dict[str, Any]) -> None:
        if self._knows(raw_id, params["sessionId"]):
            for text in self._memory():
                self._write(self._chunk(f"replayed {text}"))
            self._reopen(raw_id, params)

    def _resume(self, raw_id: Any, params: dict[str, Any]) -> None:
        if self._knows(raw_id, params["sessionId"]):
            self._reopen(raw_id, params)

    def _knows(self, raw_id: Any, session: str) -> bool:
        self._session = session
        if not self._file().exists():
            self._fail(raw_id, NOT_FOUND, f"no session {session}")
            return False
        return True

    def _new(self, raw_id: Any, params: dict[str, Any]) -> None:
        super()._new(raw_id, params)
        self._file().touch()

    def _memory(self) -> list[str]:
        return [json.loads(line) for line in self._file().read_text().splitlines()]

    def _file(self) -> Path:
        return self._directory / self._session

    def _flags_has(self, *flags: str) -> bool:
        return any(flag in self._flags for flag in flags)


if __name__ == "__main__":
    Remembering(Path(sys.argv[1]), sys.argv[2:]).run()
