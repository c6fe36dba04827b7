"""AcpClient: one connection to ``/acp``."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from relaykit.ids import IdGenerator, SystemIds
from relaykit_gateway.acp_client.events import AcpError, Event, HistoryPage, Json, Question, SessionOpened
from relaykit_gateway.acp_client.reading import error_of, opened_of, page_of, said_of, turn_end_of
from relaykit_gateway.address import Address, ClientError
from relaykit_gateway.websocket_client import WebSocketClient, connect_websocket

_PROTOCOL_VERSION = 1
_NO_DIRECTORY = "/"  # ACP wants an absolute path, of which the relay takes a hint at most


@dataclass(slots=True)
class _Request:
    """A request that waits for its answer, and what becomes of that besides.

    :param event: makes an event of the answer, which then comes in its place among the others.
    :param turn: of a prompt.
    """

    event: Callable[[Json | AcpError], Event | None]
    turn: str = ""
    outcome: Json | AcpError | None = None


class AcpClient:
    """Holds sessions, over one connection. Made by `connect_acp`.

    Iterate over it for what comes, in the order in which it came: an `Event` of each of the sessions that this
    client has created, loaded or resumed. The iteration raises `Disconnected` when the connection ends, and
    `ClientError` for what is no message. Cancelled, it has taken nothing.

    Any number of tasks may call its methods, and one may iterate meanwhile. There is no task behind it: who
    waits, for an answer or for an event, reads. What comes for others is kept until they ask for it, so that
    who only ever awaits `prompt`, and never iterates, keeps all that was said.

    A method whose request is answered with an error raises `AcpError`; all raise `Disconnected` when the
    connection has ended. Cancelling a method ends the waiting, and nothing that it has asked for.
    """

    def __init__(self, socket: WebSocketClient, ids: IdGenerator) -> None:
        self.initialized: Json = {}
        """The answer to ``initialize``: what the agent of this connection can do."""
        self._socket = socket
        self._ids = ids
        self._reading = anyio.Lock()
        self._events: deque[Event] = deque()
        self._requests: dict[int, _Request] = {}
        self._next_id = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await checkpoint()
        while not self._events:
            await self._read_unless(lambda: bool(self._events))
        return self._events.popleft()

    async def initialize(self, capabilities: Json) -> None:
        """Say who we are: called by `connect_acp`, once."""
        self.initialized = await self.call(
            "initialize",
            {
                "protocolVersion": _PROTOCOL_VERSION,
                "clientCapabilities": {**capabilities, "_meta": {"relaykit": {}}},
            },
        )

    # ------------------------------------------------------------ sessions

    async def new_session(
        self,
        *,
        role: str = "",
        agent: str = "",
        project: str = "",
        cwd: str = _NO_DIRECTORY,
        mcp_servers: Sequence[Json] = (),
    ) -> SessionOpened:
        """Create a session, and return when its agent takes prompts.

        :param role: what it is for; the relay makes one up for an empty one. A second live session of one
            role and project is refused.
        :param agent: a configured agent's name; empty for the connection's, or else the relay's default one.
        :param project: the same of a project.
        :param cwd: an absolute path on this machine, from which the relay may guess the project. It is no path
            that an agent works in.
        :param mcp_servers: as ACP has them, http and sse alone, where the relay's settings let clients.
        """
        wanted = {"role": role, "agent": agent, "project": project}
        meta = {"relaykit": {key: value for key, value in wanted.items() if value}}
        return await self._open("session/new", {"cwd": cwd, "mcpServers": list(mcp_servers), "_meta": meta})

    async def load_session(self, session_id: str, *, after: int = 0, epoch: str = "") -> SessionOpened:
        """Follow a session that runs: hear what was said, and then what is said.

        :param after: the seq behind which to begin; 0 for everything.
        :param epoch: the numbering that `after` is of. If the relay has another by now, everything is told.
        """
        meta: dict[str, Any] = {"after": after}
        if epoch:
            meta["epoch"] = epoch
        return await self._follow("session/load", session_id, meta)

    async def resume_session(self, session_id: str) -> SessionOpened:
        """Follow a session that runs: hear what is said from now on, and the questions that are open."""
        return await self._follow("session/resume", session_id, {})

    async def history(self, session_id: str, *, before: int | None = None, limit: int = 100) -> HistoryPage:
        """Return a page of what was said, backwards, also in a session that has ended. It follows nothing.

        :param before: the seq before which the page ends: `HistoryPage.next` of the page behind it. None for the
            newest page.
        :param limit: how many entries at most; a page has about a MiB.
        """
        wanted = {"sessionId": session_id, "limit": limit, **({} if before is None else {"before": before})}
        result = await self.call("_relaykit/history", wanted)
        try:
            return page_of(result)
        except (KeyError, TypeError, ValueError) as error:
            raise ClientError(f"the relay sent what is no page of history: {error!r}") from error

    async def close_session(self, session_id: str) -> None:
        """End a session. `SessionEnded` comes when everything of it is cleaned up."""
        await self.call("session/close", {"sessionId": session_id})

    # ------------------------------------------------------------ turns

    async def prompt(self, session_id: str, content: str | Sequence[Json], *, turn: str = "") -> str:
        """Say something to the agent, and return why it has stopped when its turn is over.

        :param content: text, or ACP's content blocks.
        :param turn: as in `begin_prompt`. Its `TurnEnded` comes all the same.
        :return: ``end_turn``, ``max_tokens``, ``max_turn_requests``, ``refusal`` or ``cancelled``.
        """
        request = await self._send_prompt(session_id, content, turn)
        return str((await self._answer_to(request)).get("stopReason", ""))

    async def begin_prompt(self, session_id: str, content: str | Sequence[Json], *, turn: str = "") -> str:
        """Say something to the agent, and return the id of the turn at once; its `TurnEnded` will come.

        A prompt that comes while a turn runs waits for its end.

        :param content: text, or ACP's content blocks.
        :param turn: an id of your own, of 1 to 64 letters, digits, ``-`` and ``_``. The same one again, as after
            a lost connection, begins no second turn, but waits for the end of the first.
        """
        return (await self._send_prompt(session_id, content, turn)).turn

    async def cancel(self, session_id: str) -> None:
        """Cancel the turn that runs, and take back our prompts that wait; their `TurnEnded` come."""
        await self._notify("session/cancel", {"sessionId": session_id})

    async def withdraw(self, turn: str) -> None:
        """Take back one prompt of this connection that waits, or cancel its turn; nothing if it has ended."""
        for number, request in self._requests.items():
            if request.turn == turn:
                await self._notify("$/cancel_request", {"requestId": number})
                return

    # ------------------------------------------------------------ questions

    async def answer(self, question: Question, option_id: str | None) -> None:
        """Answer a request for permission. The first answer of all clients counts.

        :param option_id: one of ``question.params["options"]``; None cancels the question.
        """
        outcome = {"outcome": "cancelled"}
        if option_id is not None:
            outcome = {"outcome": "selected", "optionId": option_id}
        await self.respond(question, {"outcome": outcome})

    async def respond(self, question: Question, result: Json) -> None:
        """Answer a question of any method, with the result that ACP has for it."""
        await self._send({"id": question.id, "result": result})

    # ------------------------------------------------------------ everything else

    async def set_mode(self, session_id: str, mode_id: str) -> None:
        """Switch the agent to one of its modes."""
        await self.call("session/set_mode", {"sessionId": session_id, "modeId": mode_id})

    async def call(self, method: str, params: Json) -> Json:
        """Send any other request, and return its result.

        :param params: with a ``sessionId``, what the relay does not know itself goes to the session's agent.
        """
        return await self._answer_to(await self._request(method, params, _Request(_no_event)))

    # ------------------------------------------------------------ requests and their answers

    async def _follow(self, method: str, session_id: str, meta: Json) -> SessionOpened:
        params = {
            "sessionId": session_id,
            "cwd": _NO_DIRECTORY,
            "mcpServers": [],
            "_meta": {"relaykit": meta},
        }
        return await self._open(method, params)

    async def _open(self, method: str, params: Json) -> SessionOpened:
        def event(outcome: Json | AcpError) -> Event | None:
            return None if isinstance(outcome, AcpError) else opened(outcome)

        def opened(result: Json) -> SessionOpened:
            return opened_of(str(params.get("sessionId") or result.get("sessionId")), result)

        return opened(await self._answer_to(await self._request(method, params, _Request(event))))

    async def _send_prompt(self, session_id: str, content: str | Sequence[Json], turn: str) -> _Request:
        turn = turn or self._ids.new_id()
        prompt = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        params = {"sessionId": session_id, "prompt": prompt, "_meta": {"relaykit": {"turn": turn}}}
        request = _Request(lambda outcome: turn_end_of(session_id, turn, outcome), turn)
        return await self._request("session/prompt", params, request)

    async def _request(self, method: str, params: Json, request: _Request) -> _Request:
        number = self._next_id
        self._next_id += 1
        self._requests[number] = request
        await self._send({"id": number, "method": method, "params": params})
        return request

    async def _notify(self, method: str, params: Json) -> None:
        await self._send({"method": method, "params": params})

    async def _send(self, message: Json) -> None:
        await self._socket.send(msgspec.json.encode({"jsonrpc": "2.0", **message}))

    async def _answer_to(self, request: _Request) -> Json:
        while request.outcome is None:
            await self._read_unless(lambda: request.outcome is not None)
        if isinstance(request.outcome, AcpError):
            raise request.outcome
        return request.outcome

    # ------------------------------------------------------------ reading

    async def _read_unless(self, came: Callable[[], bool]) -> None:
        """Take one message, unless what we wait for came while another task was reading."""
        async with self._reading:
            if not came():
                text = await self._socket.receive()
                try:
                    self._take(msgspec.json.decode(text, type=dict[str, Any]))
                except (msgspec.MsgspecError, RecursionError, KeyError, TypeError, ValueError) as error:
                    raise ClientError(f"the relay sent what is no message of ACP: {error!r}") from error

    def _take(self, message: Json) -> None:
        event = said_of(message) if "method" in message else self._take_answer(message)
        if event is not None:
            self._events.append(event)

    def _take_answer(self, message: Json) -> Event | None:
        if message.get("id") is None:  # the answer to what could not be read, which we do not send
            raise error_of(message.get("error") or {})
        request = self._requests.pop(message["id"], None)
        if request is None:
            return None
        error, result = message.get("error"), message.get("result")
        if isinstance(error, Mapping):
            request.outcome = error_of(error)
        else:
            request.outcome = result if isinstance(result, Mapping) else {}
        return request.event(request.outcome)


def _no_event(_outcome: Json | AcpError) -> None:
    return None


@asynccontextmanager
async def connect_acp(
    address: Address,
    *,
    agent: str = "",
    project: str = "",
    capabilities: Json | None = None,
    ids: IdGenerator | None = None,
) -> AsyncIterator[AcpClient]:
    """Connect to a relay's ``/acp`` for as long as the block lasts. Leaving it ends no session and no turn.

    :param agent: whose capabilities ``initialize`` tells, and which new sessions run; empty for the default one.
    :param project: in which new sessions are; empty for the default one.
    :param capabilities: what this client can do, as ACP's ``clientCapabilities``.
    :raises Unreachable: nobody answers within 10 seconds.
    :raises UpgradeRefused: the relay let us not in.
    :raises AcpError: the relay does not know the agent, or cannot start it.
    """
    query = urlencode({key: value for key, value in (("agent", agent), ("project", project)) if value})
    async with connect_websocket(address, f"/acp?{query}" if query else "/acp") as socket:
        client = AcpClient(socket, ids or SystemIds())
        await client.initialize(capabilities or {})
        yield client
