"""RemoteRelay: a connection to a relay elsewhere that comes back when it is lost."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from relaykit.ids import IdGenerator, SystemIds
from relaykit_gateway.acp_client.client import AcpClient, connect_acp
from relaykit_gateway.acp_client.events import AcpError, Json
from relaykit_gateway.address import Address, ClientError
from relaykit_gateway.client.session import GONE, OnQuestion, RemoteSession
from relaykit_gateway.websocket_client import Disconnected, Unreachable, UpgradeRefused

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
# Any other status may be a proxy's, while the relay behind it is started again.
_FINAL = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


class RemoteRelay:
    """A relay elsewhere. Made by `connect`. For one event loop, any number of tasks."""

    def __init__(self, address: Address, *, tasks: TaskGroup, patience: float, capabilities: Json) -> None:
        self._address = address
        self._tasks = tasks
        self._patience = patience
        self._capabilities = capabilities
        self._ids: IdGenerator = SystemIds()
        self._sessions: dict[str, RemoteSession] = {}
        self._client: AcpClient | None = None
        self._changed = anyio.Event()
        self._failure: ClientError | None = None
        self.broken_by: Exception | None = None
        self._closings: dict[str, anyio.Event] = {}

    # ------------------------------------------------------------ sessions

    async def create(
        self, *, role: str = "", agent: str = "", project: str = "", on_question: OnQuestion | None = None
    ) -> RemoteSession:
        """Create a session, and return when its agent takes prompts.

        :param role: what it is for; the relay makes one up for an empty one.
        :param agent: a configured agent's name; empty for the relay's default one.
        :param project: the same of a project.
        :param on_question: answers what the agent asks; without it, questions wait for somebody else. It runs in a
            task of its own; what it raises ends the block of `connect`, and is raised there.
        :raises AcpError: the relay said no, or the agent could not be started.
        :raises Disconnected: the connection was lost meanwhile: whether there is a session, `sessions` tells.
        """
        opened = await self.once(lambda client: client.new_session(role=role, agent=agent, project=project))
        return self._known(RemoteSession(self, opened, on_question))

    async def open(self, session_id: str, *, on_question: OnQuestion | None = None) -> RemoteSession:
        """Follow a session that runs, from now on; questions that wait are asked.

        :raises AcpError: there is no such session.
        """
        opened = await self.patiently(lambda client: client.resume_session(session_id))
        return self._known(RemoteSession(self, opened, on_question))

    async def sessions(self) -> Sequence[Json]:
        """Return the sessions that run, as ACP's ``session/list`` has them."""
        found: list[Json] = []
        params: dict[str, Any] = {}
        while True:
            page = await self.patiently(partial(_list, params=params))
            found += page.get("sessions", [])
            if not page.get("nextCursor"):
                return found
            params = {"cursor": page["nextCursor"]}

    # ------------------------------------------------------------ for sessions

    def new_id(self) -> str:
        """Return a fresh id."""
        return self._ids.new_id()

    def start(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Run something as long as the connection is wanted. What it raises ends that."""
        self._tasks.start_soon(self._run, function, arguments)

    async def once(self, do: Callable[[AcpClient], Awaitable[T]]) -> T:
        """Do something on the connection, as soon as there is one.

        :raises Disconnected: it was lost while it was done.
        :raises ClientError: the relay could not be reached for too long.
        """
        while self._client is None:
            self.check()
            await self._changed.wait()
        return await do(self._client)

    async def patiently(self, do: Callable[[AcpClient], Awaitable[T]]) -> T:
        """Do something that may be done twice, on this connection or the next."""
        while True:
            client = self._client
            try:
                return await self.once(do)
            except Disconnected:
                while client is not None and self._client is client:  # the one that is lost
                    await self._changed.wait()

    def check(self) -> None:
        """Raise what has ended the connection for good.

        :raises ClientError: the relay could not be reached for too long.
        """
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def until_ended(self, session: RemoteSession) -> Iterator[anyio.Event]:
        """Give an event that is set when a session has ended."""
        ended = self._closings.setdefault(session.id, anyio.Event())
        try:
            yield ended
        finally:
            self._closings.pop(session.id, None)

    async def _run(
        self, function: Callable[..., Coroutine[Any, Any, None]], arguments: Sequence[Any]
    ) -> None:
        try:
            await function(*arguments)
        except Exception as error:  # noqa: BLE001 -- raised by `connect`: the task group would wrap it
            self.broken_by = self.broken_by or error
            self._tasks.cancel_scope.cancel()

    def _known(self, session: RemoteSession) -> RemoteSession:
        self._sessions[session.id] = session
        return session

    # ------------------------------------------------------------ the connection

    async def keep(self, *, task_status: TaskStatus[None]) -> None:
        """Stay connected until that is not possible for too long. Started once."""
        lost_at: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                async with connect_acp(self._address, capabilities=self._capabilities) as client:
                    await self._go_on(client)
                    if lost_at is None:
                        task_status.started()
                    lost_at, pause = None, _FIRST_PAUSE
                    self._move(client)
                    async for event in client:
                        await self._hear(event)
            except ClientError as error:
                if self._client is None and lost_at is None:
                    raise  # it was never there
                is_final = not _may_pass(error, connecting=self._client is None)
                self._move(None)
                now = anyio.current_time()
                lost_at = now if lost_at is None else lost_at
                if is_final or now - lost_at >= self._patience:
                    self._give_up(error)
                    return
            await anyio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- so that not all come at once
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _go_on(self, client: AcpClient) -> None:
        for session in list(self._sessions.values()):
            try:
                await session.follow_again(client)
            except AcpError as error:
                if error.code == GONE:
                    session.end_unheard()
                    self._forget(session)
                else:  # its agent cannot be started, as it seems; the others have theirs
                    session.lose(error)

    async def _hear(self, event: Any) -> None:
        session = self._sessions.get(event.session_id)
        if session is None:
            return
        await session.hear(event)
        if session.over is not None:
            self._forget(session)

    def _forget(self, session: RemoteSession) -> None:
        del self._sessions[session.id]
        if (closing := self._closings.get(session.id)) is not None:
            closing.set()

    def _move(self, client: AcpClient | None) -> None:
        self._client = client
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _give_up(self, error: ClientError) -> None:
        self._failure = error
        self._move(None)
        for session in self._sessions.values():
            session.give_up(error)
        for closing in self._closings.values():
            closing.set()


def _may_pass(error: ClientError, *, connecting: bool) -> bool:
    """Tell whether it is worth another try to connect: after a while, another answer may come."""
    match error:
        case Disconnected() | Unreachable():
            return True
        case UpgradeRefused():
            return error.status not in _FINAL
        case AcpError():  # the agent whose capabilities are told cannot be started just now
            return connecting
        case _:
            return False


async def _list(client: AcpClient, *, params: Json) -> Json:
    return await client.call("session/list", params)


@asynccontextmanager
async def connect(
    url: str, *, token: str | None = None, patience: float = 300.0, capabilities: Json | None = None
) -> AsyncIterator[RemoteRelay]:
    """Connect to a relay for as long as the block lasts. Leaving it ends no session and no turn.

    :param url: ``http://127.0.0.1:7433``, as `relaykit serve` prints it.
    :param token: the relay's own, or a named one.
    :param patience: seconds after which a connection that is lost, and cannot be made again, is given up.
    :param capabilities: what this client can do, as ACP's ``clientCapabilities``.
    :raises Unreachable: nobody answers at first.
    :raises UpgradeRefused: the relay let us not in.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        address = Address(url.rstrip("/"), token)
        relay = RemoteRelay(address, tasks=tasks, patience=patience, capabilities=capabilities or {})
        try:
            await tasks.start(relay.keep)
            yield relay
        except Exception as error:  # noqa: BLE001 -- raised below, out of the task group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is None:
        failure = relay.broken_by
    if failure is not None:
        raise failure
