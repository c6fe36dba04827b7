"""A fake agent whose turns a test scripts, and the launcher that starts it: no process, either event loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import anyio.lowlevel
from anyio.abc import TaskGroup

from relaykit.agent import Agent, AgentLauncher, AgentSpec, LauncherFactory, Record, ToolUse
from relaykit.conversation import Frame, Kind
from relaykit.errors import AgentGone
from relaykit.hooks import hookimpl
from relaykit.session import Cleaner, CloseAgent, Json, Session

NAME = "fake"
"""The name of the fake agent in settings, and that of its launcher and its cleaner."""

_INTERNAL_ERROR = -32603
_OPTIONS = (("yes", "allow_once"), ("no", "reject_once"))


class _TurnFailed(Exception):
    """The script wants its turn to end with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Crashed(Exception):
    """The script wants the agent to end, in the middle of its turn."""


class FakeTurn:
    """One turn, as its script sees it. When the script returns, the turn ends with ``end_turn``.

    A turn that is cancelled has its script cancelled, and ends with ``cancelled``.

    :ivar session: as it was when the agent was started.
    :ivar text: what was prompted: the blocks of text, one a line.
    :ivar prompt: the params of the prompt, as they came.
    :ivar resumed: the agent was started to go on where the session's last one was.
    """

    def __init__(self, agent: FakeAgent, frame: Frame) -> None:
        self._agent = agent
        self.ref = frame.ref
        self.session = agent.session
        self.resumed = agent.resumed
        self.prompt: Json = json.loads(frame.body)
        self.text = "\n".join(block["text"] for block in self.prompt["prompt"] if block["type"] == "text")

    async def say(self, text: str) -> None:
        """Say a piece of the answer."""
        content = {"type": "text", "text": text}
        await self.update({"sessionUpdate": "agent_message_chunk", "content": content})

    async def update(self, update: Json) -> None:
        """Say anything: the ``update`` of ACP's ``session/update``."""
        await self._agent.say(Frame(Kind.UPDATE, _dump({"update": update}), method="session/update"))

    async def ask(
        self,
        title: str = "may I?",
        *,
        kind: str = "edit",
        paths: Sequence[str] = (),
        options: Sequence[tuple[str, str]] = _OPTIONS,
    ) -> str | None:
        """Ask for permission, and return the id of the option that was chosen; None if that was cancelled.

        :param kind: ACP's kind of tool, which the rules of ``[[permissions]]`` go by; `paths` are its locations.
        :param options: each with its id and ACP's kind of option.
        """
        tool = {
            "toolCallId": "1",
            "title": title,
            "kind": kind,
            "locations": [{"path": path} for path in paths],
        }
        offered = [{"optionId": name, "name": name, "kind": meant} for name, meant in options]
        answer = await self.request("session/request_permission", {"toolCall": tool, "options": offered})
        chosen: str | None = answer.get("outcome", {}).get("optionId")
        return chosen

    async def request(self, method: str, params: Json) -> Json:
        """Ask anything that clients are asked, and return the answer's result, or its error object."""
        return await self._agent.ask(method, params)

    def fail(self, message: str, *, code: int = _INTERNAL_ERROR) -> NoReturn:
        """End the turn with an error."""
        raise _TurnFailed(code, message)

    def crash(self, last_words: str = "it crashed") -> NoReturn:
        """End the agent, as if its process had gone away in the middle of the turn."""
        raise _Crashed(last_words)


Script = Callable[[FakeTurn], Awaitable[None]]
"""What the agent does in a turn."""


async def echo(turn: FakeTurn) -> None:
    """Say again what was prompted: the script of who gives none."""
    await turn.say(turn.text)


class FakeAgent:
    """An `Agent` that does in each turn what its launcher's script says. Started by `FakeLauncher` alone.

    :ivar received: everything that it was sent, in order.
    :ivar closed: `aclose` ran to its end.
    """

    def __init__(self, launcher: FakeLauncher, session: Session, tasks: TaskGroup, *, resumed: bool) -> None:
        self.session = session
        self.resumed = resumed
        self.received: list[Frame] = []
        self.closed = False
        self._launcher = launcher
        self._tasks = tasks
        self._refs = count(1)
        self._said: list[Frame] = []
        self._changed = anyio.Event()
        self._ended = ""
        self._turns: dict[str, anyio.CancelScope] = {}
        self._answers: dict[str, tuple[anyio.Event, list[Json]]] = {}

    @property
    def opened(self) -> Json:
        """What it says of the session: nothing."""
        return {}

    @property
    def needs_login(self) -> bool:
        """It never does."""
        return False

    async def send(self, frame: Frame, /) -> None:
        """Take a PROMPT, which starts the script; a CANCEL, a DECISION, or a CALL, which is answered with ``{}``.

        :raises AgentGone: it has crashed, or was closed.
        """
        await anyio.lowlevel.checkpoint()
        self._take(frame)

    def send_nowait(self, frame: Frame, /) -> bool:
        """Do the same at once, but for an agent that is gone."""
        if self._ended:
            return False
        self._take(frame)
        return True

    async def receive(self) -> Sequence[Frame]:
        """Return what was said since the last call.

        :raises EndOfStream: (anyio's) it has crashed, or was closed, and all was returned.
        """
        while not self._said:
            if self._ended:
                raise anyio.EndOfStream
            await self._changed.wait()
        said, self._said = self._said, []
        return said

    def farewell(self) -> str:
        """Return how it ended."""
        return f"agent {NAME!r}: {self._ended or 'it is running'}"

    async def aclose(self) -> None:
        """End it, and the script of a turn that runs."""
        self._end("it was closed")
        while self._turns:
            await self._changed.wait()
        self.closed = True

    # ------------------------------------------------------------ for its turns

    async def say(self, frame: Frame) -> None:
        """Have a frame received, after a checkpoint: a script that says much without an end can be cancelled."""
        await anyio.lowlevel.checkpoint()
        self._put(frame)

    async def ask(self, method: str, params: Json) -> Json:
        """Ask, and wait for the DECISION."""
        ref = f"{self.session.id}-q{next(self._refs)}"
        answered, answer = self._answers[ref] = (anyio.Event(), [])
        try:
            await self.say(Frame(Kind.REQUEST, _dump(params), ref, method))
            await answered.wait()
        finally:
            del self._answers[ref]
        return answer[0]

    # ------------------------------------------------------------ its own

    def _take(self, frame: Frame) -> None:
        if self._ended:
            raise AgentGone(self._ended, agent=NAME)
        self.received.append(frame)
        match frame.kind:
            case Kind.PROMPT:
                turn = FakeTurn(self, frame)
                self._turns[frame.ref] = anyio.CancelScope()
                self._tasks.start_soon(self._run, turn)
            case Kind.CANCEL:
                for scope in self._turns.values():
                    scope.cancel()
            case Kind.DECISION if frame.ref in self._answers:
                answered, answer = self._answers[frame.ref]
                answer.append(json.loads(frame.body or b"{}"))
                answered.set()
            case Kind.CALL:
                self._put(Frame(Kind.RESULT, b"{}", frame.ref, frame.method))
            case _:
                pass  # the answer to a question that it does not ask any more

    async def _run(self, turn: FakeTurn) -> None:
        end: Json = {"stopReason": "cancelled"}
        failed = False
        try:
            with self._turns[turn.ref]:
                await self._launcher.script(turn)
                end = {"stopReason": "end_turn"}
        except _TurnFailed as failure:
            end, failed = {"code": failure.code, "message": str(failure)}, True
        except _Crashed as crash:
            self._end(str(crash))
        except Exception as error:  # noqa: BLE001 -- the test's own: raised again where the launcher is left
            self._launcher.errors.append(error)
            end, failed = {"code": _INTERNAL_ERROR, "message": f"the script raised {error!r}"}, True
        finally:
            del self._turns[turn.ref]
            if self._ended:  # the relay ends the turn, as of any agent that is gone
                self._notify()
            else:
                self._put(Frame(Kind.TURN_END, _dump(end), turn.ref, "session/prompt", failed=failed))

    def _end(self, how: str) -> None:
        self._ended = self._ended or how
        for scope in self._turns.values():
            scope.cancel()
        self._notify()

    def _put(self, frame: Frame) -> None:
        self._said.append(frame)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class FakeLauncher:
    """An `AgentLauncher` of fake agents. It is a plugin too, which offers the agent ``fake``, and its cleaner.

    :param script: run in each turn; may be changed at any time, for the turns that begin then.
    :param when_started: awaited in each start, behind what is recorded: to be slow, or to raise a `SpawnError`.
    :param resumable: its agents can go on where the session's last one was: their sessions may sleep.
    :ivar agents: those that were started, in order.
    :ivar errors: what scripts have raised; the first is raised when the launcher is left.
    """

    def __init__(
        self,
        script: Script = echo,
        *,
        when_started: Callable[[Session], Awaitable[None]] | None = None,
        resumable: bool = False,
    ) -> None:
        self.script = script
        self.when_started = when_started
        self.resumable = resumable
        self.agents: list[FakeAgent] = []
        self.errors: list[Exception] = []
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AgentLauncher]:
        """Open it; leaving it closes every agent that is left, and raises what a script has raised."""
        failure: Exception | None = None
        async with anyio.create_task_group() as self._tasks:
            try:
                yield self
            except Exception as error:  # noqa: BLE001 -- raised below, out of the task group, which would wrap it
                failure = error
            finally:
                with anyio.CancelScope(shield=True):
                    for agent in self.agents:
                        await agent.aclose()
        if failure is not None:
            raise failure
        if self.errors:
            raise self.errors[0]

    async def profile(self, spec: AgentSpec, /) -> Json:
        """Return an answer to ``initialize`` with no capabilities."""
        del spec
        await anyio.lowlevel.checkpoint()
        return {"protocolVersion": 1, "agentCapabilities": {}}

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        """Start an agent.

        :raises RuntimeError: the launcher is not open.
        """
        del spec
        if self._tasks is None:
            raise RuntimeError("this FakeLauncher is not open: use `async with launcher.open()`")
        await record({"cwd": str(cwd), "resumable": self.resumable})
        if self.when_started is not None:
            await self.when_started(session)
        agent = FakeAgent(self, session, self._tasks, resumed=resume)
        self.agents.append(agent)
        return agent

    def can_resume(self, session: Session, /) -> bool:
        """Tell whether the session's last agent was `resumable`."""
        return bool(session.resources.get(NAME, {}).get("resumable"))

    def decline(self, request: Frame, /, *, cancelled: bool) -> Frame:
        """Return ``cancelled``, or the first option that rejects."""
        return self._decide(request, None if cancelled else self._option(request, "reject"))

    def allow(self, request: Frame, /) -> Frame | None:
        """Return the first option that allows."""
        option = self._option(request, "allow")
        return None if option is None else self._decide(request, option)

    def tool_use(self, request: Frame, /) -> ToolUse | None:
        """Return what an agent of ours asks permission for."""
        tool = self._params(request).get("toolCall")
        if not isinstance(tool, Mapping):
            return None
        return ToolUse(tool.get("kind"), tuple(place["path"] for place in tool.get("locations", ())))

    # ------------------------------------------------------------ as a plugin

    @hookimpl
    def relaykit_register_agents(self) -> Mapping[str, AgentSpec]:
        """Offer the agent ``fake``."""
        return {NAME: AgentSpec(name=NAME, command=(NAME,), launcher=NAME)}

    @hookimpl
    def relaykit_register_launchers(self) -> Mapping[str, LauncherFactory]:
        """Offer itself."""
        return {NAME: self.open}

    @hookimpl
    def relaykit_register_cleaners(self) -> Sequence[Cleaner]:
        """Offer what closes its agents."""
        return [_CloseFakeAgent()]

    @staticmethod
    def _params(request: Frame) -> Mapping[str, Any]:
        try:
            params: object = json.loads(request.body)
        except ValueError:
            return {}
        return params if isinstance(params, Mapping) else {}

    def _option(self, request: Frame, meaning: str) -> str | None:
        offered = self._params(request).get("options", ())
        return next((option["optionId"] for option in offered if option["kind"].startswith(meaning)), None)

    @staticmethod
    def _decide(request: Frame, option: str | None) -> Frame:
        outcome = {"outcome": "selected", "optionId": option} if option else {"outcome": "cancelled"}
        return Frame(Kind.DECISION, _dump({"outcome": outcome}), request.ref, request.method)


class _CloseFakeAgent(CloseAgent):
    name = NAME


def _dump(value: Json) -> bytes:
    return json.dumps(value).encode()
