"""Clients of a gateway that come and go, and read when they like; over links that break at any byte."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from relaykit.conversation import Entry, Kind
from relaykit.relay.notices import ACTIVE, AGENT_CRASHED, ASLEEP, AWAKE
from relaykit_gateway.app import build_app
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.token import token_path

SECONDS = 30.0
Event = MutableMapping[str, Any]

_STALLED = re.compile(r"stalled (\S+):(\d+)")
_TOLD_ON_WS = frozenset({ACTIVE, AGENT_CRASHED, ASLEEP, AWAKE})


class Link:
    """A WebSocket to a gateway, without a network: what was sent and not read is on its way, and may be lost.

    :param room: how many messages may be on their way.
    """

    def __init__(self, gateway: Gateway, path: str, tasks: TaskGroup, *, room: int) -> None:
        self._to_app, app_receives = anyio.create_memory_object_stream[Event](100)
        self._app_sends, self._from_app = anyio.create_memory_object_stream[Event](room)
        self._ended = anyio.Event()
        token = token_path(gateway.relay.settings.state_dir).read_text()
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1:7433"), (b"authorization", f"Bearer {token}".encode())],
            "server": ("127.0.0.1", 7433),
            "subprotocols": [],
        }
        tasks.start_soon(partial(self._serve, build_app(gateway), scope, app_receives))
        self._to_app.send_nowait({"type": "websocket.connect"})

    async def _serve(self, app: Any, scope: Mapping[str, Any], receives: Any) -> None:
        with self._app_sends, receives:
            await app(dict(scope), receives.receive, self._send)
        self._ended.set()

    async def _send(self, event: Event) -> None:
        try:
            await self._app_sends.send(event)
        except anyio.BrokenResourceError:
            raise OSError("the client has gone") from None  # as ASGI has it

    def say(self, message: Mapping[str, Any]) -> None:
        self._to_app.send_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def event(self) -> Event:
        with anyio.fail_after(SECONDS):
            return await self._from_app.receive()

    def event_nowait(self) -> Event | None:
        try:
            return self._from_app.receive_nowait()
        except (
            anyio.WouldBlock,
            anyio.EndOfStream,
        ):  # nothing is there; or it was sent away, and has missed why
            return None

    def close(self) -> None:
        """Let go of everything: the test is over."""
        self._from_app.close()
        self._to_app.close()

    async def break_off(self) -> None:
        """Lose the connection, and wait until the gateway has noticed."""
        self._from_app.close()
        with suppress(anyio.BrokenResourceError):  # it has been sent away
            self._to_app.send_nowait({"type": "websocket.disconnect", "code": 1006})
        with anyio.fail_after(SECONDS):
            await self._ended.wait()
        self._to_app.close()


@dataclass
class FickleClient:
    """One client through all its connections: what it was told, of which session, and where it is.

    :param protocol: ``ws``, ``acp``, or ``aware``: ``acp`` with relaykit's own notifications.
    """

    protocol: str
    session_id: str
    place: int = 0
    epoch: str = ""
    told: dict[int, str] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    link: Link | None = None
    stalls: int = 0
    _newest: int = 0  # of what it was told

    # ------------------------------------------------------------ coming and going

    async def come(self, gateway: Gateway, tasks: TaskGroup, *, room: int) -> None:
        """Connect, and ask for what was missed."""
        path = "/ws" if self.protocol == "ws" else "/acp"
        link = self.link = Link(gateway, path, tasks, room=room)
        assert (await link.event())["type"] == "websocket.accept"
        if self.protocol == "ws":
            place = {"after": self.place, **({"epoch": self.epoch} if self.epoch else {})}
            link.say({"version": "1.0", "type": "session:attach", "sessionId": self.session_id, **place})
            return
        capabilities: dict[str, Any] = {"_meta": {"relaykit": {}}} if self.protocol == "aware" else {}
        params: dict[str, Any] = {"protocolVersion": 1, "clientCapabilities": capabilities}
        link.say({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        await link.event()
        place = {"after": self.place, **({"epoch": self.epoch} if self.epoch else {})}
        params = {"sessionId": self.session_id, "cwd": "/", "mcpServers": [], "_meta": {"relaykit": place}}
        link.say({"jsonrpc": "2.0", "id": 2, "method": "session/resume", "params": params})

    async def lose(self, share: float) -> None:
        """Lose the connection at some byte of what is on its way."""
        if self.link is None:
            return
        texts = []
        while (event := self.link.event_nowait()) is not None:
            if "text" in event:
                texts.append(event["text"])
        left = int(share * sum(map(len, texts)))
        for text in texts:
            left -= len(text)
            if left < 0:
                break  # a part of it arrived: that is nothing
            self._hear(json.loads(text))
        link, self.link = self.link, None
        await link.break_off()

    async def read(self, most: int) -> None:
        """Read up to so many messages that are there."""
        for _ in range(most):
            event = self.link.event_nowait() if self.link is not None else None
            if event is None:
                return
            await self._take(event)

    async def read_up_to(self, seq: int) -> None:
        """Read until it was told of this entry."""
        while self._newest < seq:
            assert self.link is not None, f"{self.protocol} was sent away"
            await self._take(await self.link.event())

    # ------------------------------------------------------------ what it hears

    async def _take(self, event: Event) -> None:
        if event["type"] != "websocket.close":
            self._hear(json.loads(event["text"]))
            return
        stalled = _STALLED.fullmatch(event["reason"])
        assert event["code"] == 1013, event
        if stalled is not None:
            assert stalled[1] == self.session_id
            assert int(stalled[2]) >= self._newest  # what was sent before was read
            self.place = int(stalled[2])
        self.stalls += 1
        link, self.link = self.link, None
        if link is not None:
            await link.break_off()

    def _hear(self, message: Mapping[str, Any]) -> None:
        if self.protocol == "ws":
            self._hear_ws(message)
        else:
            self._hear_acp(message)

    def _hear_ws(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "session:attached":
            assert self.epoch in {"", message["epoch"]}
            self.epoch = message["epoch"]
        elif kind == "session:gap":
            self._note_gap(message)
        elif kind == "session:caught_up":
            self.place = max(self.place, message["seq"])
        elif "seq" in message:
            update = message.get("update")
            self._note(message["seq"], update["content"]["text"] if update else kind)

    def _hear_acp(self, message: Mapping[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "session/update":
            self._note(params["_meta"]["relaykit"]["seq"], params["update"]["content"]["text"])
        elif method == "_relaykit/gap":
            self._note_gap(params)
        elif method is not None:
            assert params["_meta"]["relaykit"]["seq"] >= self._newest
        else:
            assert "result" in message, f"{self.protocol}, behind {self.place}: {message}"
            facts = message["result"]["_meta"]["relaykit"]
            self.epoch = facts["epoch"]
            if self.protocol == "acp":
                self.gaps += [(gap["from"], gap["to"]) for gap in facts.get("gaps", [])]

    def _note(self, seq: int, text: str) -> None:
        assert seq > self._newest, f"{self.protocol}: {seq} came behind {self._newest}"
        self._newest = self.place = seq
        self.told[seq] = text

    def _note_gap(self, gap: Mapping[str, Any]) -> None:
        assert gap["from"] > self._newest
        self._newest = self.place = gap["to"]
        self.gaps.append((gap["from"], gap["to"]))

    # ------------------------------------------------------------ whether that was right

    def check(self, said: Mapping[int, Entry], trimmed: int) -> None:
        """Check that it was told what was said, once and in order, but for the gaps that it was told of.

        :param said: everything that was ever recorded.
        :param trimmed: through where it was, at the most.
        """
        for first, last in self.gaps:
            assert first <= last <= trimmed
        missing = {seq for first, last in self.gaps for seq in range(first, last + 1)}
        if self.protocol == "acp":  # it hears of gaps in an answer, which may have been lost
            missing |= set(range(1, trimmed + 1)) - self.told.keys()
        assert not missing & self.told.keys()
        expected = {
            seq: text
            for seq, entry in said.items()
            if seq <= self._newest and seq not in missing and (text := self._text_of(entry)) is not None
        }
        assert {seq: text if expected.get(seq) else "" for seq, text in self.told.items()} == expected

    def _text_of(self, entry: Entry) -> Any:
        """Return what it is told of an entry, empty if that is looked at no further; None if nothing."""
        kind, body, _, method, _ = entry.frame
        if kind is Kind.UPDATE:
            return json.loads(body)["update"]["content"]["text"]
        if kind is Kind.PROMPT:
            return json.loads(body)["prompt"][0]["text"]
        if self.protocol != "ws":
            return None
        return "" if kind is Kind.TURN_END or method in _TOLD_ON_WS else None
