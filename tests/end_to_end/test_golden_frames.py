"""What real agents and clients said goes through the relay, its journal and ``/acp``, and comes out equal.

Both sides of a recording are played: the agent's by `golden_player` behind a real relay, the client's here, on a
WebSocket, with the ids that the recorded client gave. See `record_golden` for how recordings are made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect

from relaykit.relay import Relay
from support import golden_player
from support.gateways import BACKENDS, SECONDS, address_of, gateway_settings, open_gateway_relay
from support.golden import (
    NAMES,
    Spoken,
    assert_same,
    assert_same_json,
    load,
    raw_blocks,
    recording_of,
    seq_of,
)

pytestmark = pytest.mark.anyio

QUESTIONS = {"session/request_permission", "elicitation/create"}


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Socket:
    """A connection to ``/acp``. Every wait has a deadline."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def say(self, line: str) -> None:
        """Send a line as it is."""
        with anyio.fail_after(SECONDS):
            await self._socket.send(line)

    async def hear(self) -> str:
        """Return the next message as it is."""
        with anyio.fail_after(SECONDS):
            line = await self._socket.recv()
        assert isinstance(line, str)
        return line

    async def ask(self, method: str, **params: Any) -> tuple[list[str], dict[str, Any]]:
        """Send a request; return what came before its answer, and its result."""
        await self.say(json.dumps({"jsonrpc": "2.0", "id": "asked", "method": method, "params": params}))
        before = []
        while json.loads(line := await self.hear()).get("id") != "asked":
            before.append(line)
        result: dict[str, Any] = json.loads(line)["result"]
        return before, result


@asynccontextmanager
async def connected(relay: Relay) -> AsyncIterator[Socket]:
    """Connect to ``/acp``."""
    url, token = address_of(relay)
    address = url.replace("http", "ws", 1).rstrip("/") + "/acp?agent=played"
    bearer = {"Authorization": f"Bearer {token}"}
    async with connect(address, proxy=None, additional_headers=bearer, compression=None) as socket:
        yield Socket(socket)


class Replay:
    """One recording, played through a relay in step.

    :ivar session_id: the relay's.
    """

    def __init__(self, recording: list[Spoken], socket: Socket) -> None:
        self._recording = recording
        self._socket = socket
        self._refs: dict[str, str] = {}
        self._methods: dict[str, str] = {}
        self._early: list[Spoken] = []
        self._seqs = [0]
        self._theirs = next(s.message["result"]["sessionId"] for s in recording if is_new_session(s))
        self.session_id = ""

    async def play(self) -> None:
        """Say what the client said, and check that what the agent said comes, in order."""
        for spoken in self._recording:
            if spoken.by_agent:
                await self._expect(spoken)
            else:
                await self._say(spoken)

    async def _say(self, spoken: Spoken) -> None:
        message = spoken.message
        line = spoken.line.replace(json.dumps(self._theirs), json.dumps(self.session_id))
        if spoken.method:
            self._methods[json.dumps(message.get("id"))] = spoken.method
        elif (ref := self._refs.get(json.dumps(message["id"]))) is None:
            return  # the relay answered this one, and no client was asked
        else:
            line = line.replace(f'"id":{json.dumps(message["id"])}', f'"id":{json.dumps(ref)}', 1)
        await self._socket.say(line)

    async def _expect(self, spoken: Spoken) -> None:
        if spoken.method and "id" in spoken.message and spoken.method not in QUESTIONS:
            return
        if spoken.method and not self.session_id:
            self._early.append(spoken)  # a client can be told of its session once it knows it
            return
        came = await self._socket.hear()
        if spoken.method:
            self._check(spoken, came)
        else:
            await self._check_answer(spoken, came)

    def _check(self, spoken: Spoken, came: str) -> None:
        assert_same(spoken.line, came)
        self._seqs.append(seq_of(came))
        assert self._seqs[-1] > self._seqs[-2]
        if spoken.method:
            assert json.loads(came)["params"]["sessionId"] == self.session_id
            if "id" in spoken.message:
                self._refs[json.dumps(spoken.message["id"])] = json.loads(came)["id"]

    async def _check_answer(self, spoken: Spoken, came: str) -> None:
        recorded, answered = spoken.message, json.loads(came)
        method = self._methods[json.dumps(recorded["id"])]
        if method not in {"initialize", "session/new"}:
            self._check(spoken, came)
            return
        assert answered["id"] == recorded["id"]
        if method == "initialize":
            # The relay itself lists, loads, resumes and closes sessions.
            for result in (recorded["result"], answered["result"]):
                result["agentCapabilities"].pop("loadSession", None)
                result["agentCapabilities"].pop("sessionCapabilities", None)
        else:
            self.session_id = answered["result"]["sessionId"]
        assert_same_json(json.dumps(recorded), json.dumps(answered))
        if method == "session/new":
            for early in self._early:
                self._check(early, await self._socket.hear())


def is_new_session(spoken: Spoken) -> bool:
    """Say whether it is the answer to ``session/new``."""
    return spoken.by_agent and "sessionId" in (spoken.message.get("result") or {})


def history(recording: list[Spoken]) -> list[tuple[str, str]]:
    """Return what a client sees of a recording that attaches later: updates, and prompts block by block.

    :return: messages, with the raw block where it is one of a prompt.
    """
    lines = []
    for spoken in recording:
        if spoken.by_agent and spoken.method and "id" not in spoken.message:
            lines.append((spoken.line, ""))
        elif spoken.method == "session/prompt":
            for block in raw_blocks(spoken.line):
                update = f'{{"sessionUpdate":"user_message_chunk","content":{block}}}'
                params = f'{{"sessionId":"","update":{update}}}'
                lines.append((f'{{"jsonrpc":"2.0","method":"session/update","params":{params}}}', block))
    return lines


@pytest.mark.parametrize("name", NAMES)
async def test_a_recording_comes_out_equal_live_and_from_the_journal(tmp_path: Path, name: str) -> None:
    recording = load(name)
    heard = tmp_path / "heard.jsonl"
    command = [sys.executable, "-I", "-S", golden_player.__file__, str(recording_of(name)), str(heard)]
    settings = gateway_settings(tmp_path, agents=f"[agents.played]\ncommand = {json.dumps(command)}")
    async with open_gateway_relay(settings) as relay:
        async with connected(relay) as socket:
            replay = Replay(recording, socket)
            await replay.play()

        async with connected(relay) as socket:
            await socket.ask("initialize", protocolVersion=1, clientCapabilities={})
            loaded, result = await socket.ask(
                "session/load", sessionId=replay.session_id, cwd="/project", mcpServers=[]
            )
            assert result["_meta"]["relaykit"]["turnRunning"] is None
            for (recorded, block), came in zip(history(recording), loaded, strict=True):
                (assert_same_json if block else assert_same)(recorded, came)
                assert block in came
            resumed, _ = await socket.ask(
                "session/resume", sessionId=replay.session_id, cwd="/project", mcpServers=[]
            )
            assert resumed == []

    # What the client said reached the agent as it was said.
    own = {"initialize", "session/new"}
    said = [spoken.line for spoken in recording if not spoken.by_agent and spoken.method not in own]
    reached = [line for line in heard.read_text().splitlines() if json.loads(line).get("method") not in own]
    for recorded, came in zip(said, reached, strict=True):
        assert_same(recorded, came)


@pytest.mark.parametrize("name", NAMES)
async def test_a_recording_holds_what_it_is_for(name: str) -> None:
    recording = load(name)
    by_agent = [spoken.method for spoken in recording if spoken.by_agent]
    by_client = [spoken.method for spoken in recording if not spoken.by_agent]
    assert {"session/update", "session/request_permission", ""} <= set(by_agent)
    assert {"session/prompt", "session/cancel", ""} <= set(by_client)
    assert [method for method in by_client if method.startswith("session/set_")]
