"""The first words with an agent: from its start to where it takes a prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import AgentExited, AgentProtocolError, FrameTooLarge, InitializeTimeout, LoginRequired
from relaykit.session.model import Json
from relaykit_acp.agent import AcpAgent
from relaykit_acp.envelope import LOGIN_REQUIRED
from relaykit_acp.modes import Modes

T = TypeVar("T")

PROTOCOL_VERSION = 1


class _Error(msgspec.Struct):
    code: int
    message: str


class _NewSession(msgspec.Struct):
    session_id: str = msgspec.field(name="sessionId")


class Handshake:
    """Asks an agent what it is, and opens an ACP session in it.

    :param seconds: what both together may take, from now on.
    """

    def __init__(self, agent: AcpAgent, spec: AgentSpec, *, seconds: float) -> None:
        self._agent = agent
        self._spec = spec
        self._seconds = seconds
        self._deadline = anyio.current_time() + seconds

    async def initialize(self) -> Json:
        """Return the agent's answer to ``initialize``.

        :raises SpawnError: as `AcpLauncher.launch`.
        """
        result = await self._ask(
            "initialize",
            {
                "protocolVersion": PROTOCOL_VERSION,
                "clientCapabilities": {
                    "fs": {"readTextFile": False, "writeTextFile": False},
                    "terminal": False,
                },
                "clientInfo": {
                    "name": "relaykit",
                    "title": "relaykit",
                    "version": _own_version(),
                },
            },
        )
        answer = self._decode("initialize", result, dict[str, Any])
        spoken = answer.get("protocolVersion")
        if spoken != PROTOCOL_VERSION:
            raise AgentProtocolError(
                f"it speaks version {spoken!r} of ACP, and relaykit speaks {PROTOCOL_VERSION}: "
                "use a version of the agent that does",
                agent=self._spec.name,
            )
        return answer

    async def open_session(self, cwd: Path) -> str:
        """Open an ACP session in a directory (absolute), with the spec's MCP servers, and address the agent to it.

        :return: the agent's own id of it.
        :raises SpawnError: as `AcpLauncher.launch`.
        """
        result = await self._ask("session/new", self._session_params(cwd))
        session_id = self._decode("session/new", result, _NewSession).session_id
        opened = self._decode("session/new", result, dict[str, Any])
        del opened["sessionId"]
        self._agent.enter_session(msgspec.json.encode(session_id), Modes(opened))
        return session_id

    async def reopen_session(self, cwd: Path, session_id: str, *, method: str) -> None:
        """Have the agent go on with an ACP session of an earlier process, and address it to that.

        What it says of the past before it answers is left out: `session/load` replays it, and it is recorded.

        :param method: ``session/resume`` or ``session/load``, whichever it has.
        :raises SpawnError: as `AcpLauncher.launch`.
        """
        params = {"sessionId": session_id, **self._session_params(cwd)}
        result = await self._ask(method, params, forget=True)
        opened = {} if result in {b"", b"null"} else self._decode(method, result, dict[str, Any])
        opened.pop("sessionId", None)
        self._agent.enter_session(msgspec.json.encode(session_id), Modes(opened))

    def _session_params(self, cwd: Path) -> Mapping[str, Any]:
        servers = [dict(server) for server in self._spec.mcp_servers]
        return {"cwd": os.fspath(cwd), "mcpServers": servers}

    async def _ask(self, method: str, params: Mapping[str, Any], *, forget: bool = False) -> bytes:
        name = self._spec.name
        try:
            with anyio.CancelScope(deadline=self._deadline) as scope:
                answer = await self._agent.ask(method, msgspec.json.encode(params), forget=forget)
        except anyio.EndOfStream:
            if self._agent.exit_code is None:
                raise AgentProtocolError(
                    f"it closed its output before it answered {method!r}", agent=name
                ) from None
            raise AgentExited(
                agent=name, exit_code=self._agent.exit_code, stderr=self._agent.last_words
            ) from None
        except FrameTooLarge as error:
            raise AgentProtocolError(str(error), agent=name) from error
        if scope.cancelled_caught:
            raise InitializeTimeout(method, agent=name, seconds=self._seconds, stderr=self._agent.last_words)
        if answer.failed:
            refusal = self._decode(method, answer.body, _Error)
            why = self._agent.mask(refusal.message)
            if refusal.code == LOGIN_REQUIRED:
                raise LoginRequired(why, agent=name, login=self._spec.login)
            raise AgentProtocolError(f"it refused {method!r}: {why} ({refusal.code})", agent=name)
        return answer.body

    def _decode(self, method: str, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise AgentProtocolError(
                f"its answer to {method!r} is not what ACP says: {error}", agent=self._spec.name
            ) from error


def way_to_resume(profile: Json) -> str | None:
    """Return the method by which an agent goes on with a session of an earlier process; None if it cannot.

    ``session/resume`` is preferred: ``session/load`` replays the whole past first.

    :param profile: its answer to ``initialize``.
    """
    capabilities = profile.get("agentCapabilities")
    if not isinstance(capabilities, Mapping):
        return None
    of_sessions = capabilities.get("sessionCapabilities")
    if isinstance(of_sessions, Mapping) and isinstance(of_sessions.get("resume"), Mapping):
        return "session/resume"
    return "session/load" if capabilities.get("loadSession") is True else None


@cache
def _own_version() -> str:
    """Return our version; looking it up reads files, a tenth of what a launch costs the relay."""
    return metadata.version("relaykit")
