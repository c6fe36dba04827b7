"""LauncherContract: the tests that every `AgentLauncher` must pass, and the agents that it starts.

::

    class TestRemoteLauncher(LauncherContract):
        @pytest.fixture
        def open_launcher(self) -> LauncherFactory:
            return open_remote_launcher

        @pytest.fixture
        def spec(self) -> AgentSpec:
            return AgentSpec(name="echo", command=("remote-echo",), launcher="remote")

        @pytest.fixture
        def is_gone(self) -> IsGone:
            async def is_gone(session: Session) -> bool:
                return await count_remote_processes(session.id) == 0

            return is_gone
"""
# ruff: noqa: S101, D102 -- a test suite: it asserts, and its tests' names say what they show

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio.lowlevel
import pytest

from relaykit.agent import Agent, AgentLauncher, AgentSpec, LauncherFactory, ToolUse
from relaykit.conversation import Frame, Kind
from relaykit.errors import AgentGone, SpawnError
from relaykit.ids import SystemIds
from relaykit.session import Json, Session
from relaykit.testing.interruption import interruptions
from relaykit.testing.sessions import make_session

PATIENCE = 60.0
"""Seconds that one call may take."""

IsGone = Callable[[Session], Awaitable[bool]]
"""Looks whether nothing runs any more that was started for a session."""

_PROMPT = b'{"prompt":[{"type":"text","text":"hello"}]}'
_PERMISSION = {
    "toolCall": {"toolCallId": "1", "title": "write", "kind": "edit", "locations": [{"path": "/a"}]},
    "options": [
        {"optionId": "yes", "name": "Yes", "kind": "allow_once"},
        {"optionId": "no", "name": "No", "kind": "reject_once"},
    ],
}


@dataclass(slots=True)
class _Records:
    """What the launcher records of one session."""

    session: Session
    facts: list[Json] = field(default_factory=list)

    async def __call__(self, facts: Json) -> None:
        await anyio.lowlevel.checkpoint()
        self.facts.append(facts)

    def stored(self, spec: AgentSpec) -> Session:
        """Return the session as the store would give it back."""
        return self.session.evolve(resources={spec.launcher: self.facts[-1]})


class LauncherContract:
    """What holds for every launcher. Override `open_launcher`, `spec` and `is_gone`; and the rest where it is so."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def open_launcher(self) -> LauncherFactory:
        """Return what opens the launcher, as the hook ``relaykit_register_launchers`` offers it."""
        raise NotImplementedError("a subclass of LauncherContract overrides the fixture `open_launcher`")

    @pytest.fixture
    def spec(self) -> AgentSpec:
        """Return an agent that answers a prompt by itself, and asks nothing."""
        raise NotImplementedError("a subclass of LauncherContract overrides the fixture `spec`")

    @pytest.fixture
    def is_gone(self) -> IsGone:
        """Return what tells whether nothing is left of a session's agent."""
        raise NotImplementedError("a subclass of LauncherContract overrides the fixture `is_gone`")

    @pytest.fixture
    def broken(self) -> AgentSpec | None:
        """Return an agent that cannot be started. None: there is no such thing."""
        return None

    @pytest.fixture
    def resumes(self) -> bool:
        """Tell whether the agent of `spec` can go on where the session's last one was."""
        return False

    @pytest.fixture
    def permission(self) -> Frame:
        """Return a request for permission as the agent makes them: by default ACP's, to edit ``/a``."""
        return Frame(Kind.REQUEST, json.dumps(_PERMISSION).encode(), "q1", "session/request_permission")

    @pytest.fixture
    async def launcher(self, open_launcher: LauncherFactory) -> AsyncIterator[AgentLauncher]:
        """Open the launcher."""
        async with open_launcher() as opened:
            yield opened

    # ------------------------------------------------------------ starting

    async def test_it_is_recorded_before_it_is_started(
        self, launcher: AgentLauncher, spec: AgentSpec, is_gone: IsGone, tmp_path: Path
    ) -> None:
        records = _Records(_new_session())

        async def record(facts: Json) -> None:
            if not records.facts:
                assert await is_gone(records.session)
            await records(facts)

        with anyio.fail_after(PATIENCE):
            agent = await launcher.launch(spec, records.session, tmp_path, record)
        assert not await is_gone(records.session), "there is no agent, or `is_gone` is wrong"
        assert all(json.loads(json.dumps(dict(facts))) for facts in records.facts), "it is stored as JSON"
        assert isinstance(agent.opened, Mapping)
        assert agent.needs_login is False
        assert agent.farewell()

    async def test_what_cannot_be_recorded_is_not_started(
        self, launcher: AgentLauncher, spec: AgentSpec, is_gone: IsGone, tmp_path: Path
    ) -> None:
        session = _new_session()

        async def record(facts: Json) -> None:
            del facts
            await anyio.lowlevel.checkpoint()
            raise OSError("the store is full")

        with anyio.fail_after(PATIENCE), pytest.raises(OSError, match="the store is full"):
            await launcher.launch(spec, session, tmp_path, record)
        assert await is_gone(session)

    async def test_what_cannot_be_started_says_why(
        self, launcher: AgentLauncher, broken: AgentSpec | None, is_gone: IsGone, tmp_path: Path
    ) -> None:
        if broken is None:
            pytest.skip("every agent can be started here")
        session = _new_session()
        with anyio.fail_after(PATIENCE), pytest.raises(SpawnError) as caught:
            await launcher.launch(broken, session, tmp_path, _Records(session))
        assert caught.value.agent == broken.name
        assert await is_gone(session)

    async def test_cut_off_on_its_way_it_leaves_nothing(
        self, launcher: AgentLauncher, spec: AgentSpec, is_gone: IsGone, tmp_path: Path
    ) -> None:
        for attempt in interruptions():
            session = _new_session()
            with anyio.fail_after(PATIENCE):
                agent = await attempt(launcher.launch(spec, session, tmp_path, _Records(session)))
                if agent is not None:
                    await agent.aclose()
            assert await is_gone(session)

    async def test_its_profile_is_the_same_for_all(self, launcher: AgentLauncher, spec: AgentSpec) -> None:
        found: list[Json] = []

        async def ask() -> None:
            found.append(await launcher.profile(spec))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
            await ask()
        assert isinstance(found[0], Mapping)
        assert all(profile == found[0] for profile in found)

    # ------------------------------------------------------------ talking

    async def test_an_agent_answers_a_prompt(
        self, launcher: AgentLauncher, spec: AgentSpec, tmp_path: Path
    ) -> None:
        agent = await _launch(launcher, spec, tmp_path)
        for turn in ("t1", "t2"):
            prompt = Frame(Kind.PROMPT, _PROMPT, turn, "session/prompt")
            if not agent.send_nowait(prompt):
                await agent.send(prompt)
            end = (await _until(Kind.TURN_END, agent))[-1]
            assert (end.ref, end.failed) == (turn, False)
            json.loads(end.body)
            await agent.send(Frame(Kind.CANCEL, method="session/cancel"))  # too late, and no harm

    async def test_an_agent_that_is_closed_is_gone(
        self, launcher: AgentLauncher, spec: AgentSpec, is_gone: IsGone, tmp_path: Path
    ) -> None:
        session = _new_session()
        agent = await _launch(launcher, spec, tmp_path, session)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.aclose)
                tasks.start_soon(agent.aclose)
            await agent.aclose()
        assert await is_gone(session)
        await _until_the_end(agent)
        with pytest.raises(AgentGone), anyio.fail_after(PATIENCE):
            await agent.send(Frame(Kind.PROMPT, _PROMPT, "t1", "session/prompt"))
        assert agent.farewell()

    async def test_leaving_the_launcher_ends_its_agents(
        self, open_launcher: LauncherFactory, spec: AgentSpec, is_gone: IsGone, tmp_path: Path
    ) -> None:
        sessions = [_new_session() for _ in range(2)]
        async with open_launcher() as launcher:
            agents = [await _launch(launcher, spec, tmp_path, session) for session in sessions]
        assert [await is_gone(session) for session in sessions] == [True, True]
        for agent in agents:
            await _until_the_end(agent)

    # ------------------------------------------------------------ going on

    async def test_a_session_that_has_recorded_nothing_cannot_go_on(self, launcher: AgentLauncher) -> None:
        assert launcher.can_resume(_new_session()) is False

    async def test_an_agent_goes_on_where_the_last_one_was(
        self, launcher: AgentLauncher, spec: AgentSpec, tmp_path: Path, *, resumes: bool
    ) -> None:
        records = _Records(_new_session())
        with anyio.fail_after(PATIENCE):
            agent = await launcher.launch(spec, records.session, tmp_path, records)
            await agent.aclose()
        stored = records.stored(spec)
        assert launcher.can_resume(stored) is resumes
        if resumes:
            with anyio.fail_after(PATIENCE):
                agent = await launcher.launch(spec, stored, tmp_path, records, resume=True)
            assert launcher.can_resume(records.stored(spec))
            await agent.aclose()

    # ------------------------------------------------------------ questions

    async def test_no_is_said_in_the_agents_own_terms(
        self, launcher: AgentLauncher, permission: Frame
    ) -> None:
        for cancelled in (True, False):
            no = launcher.decline(permission, cancelled=cancelled)
            assert (no.kind, no.ref) == (Kind.DECISION, permission.ref)
            assert no.failed or isinstance(json.loads(no.body), dict)
        nonsense = launcher.decline(Frame(Kind.REQUEST, b"[1", "q2", "who/knows"), cancelled=True)
        assert (nonsense.kind, nonsense.ref) == (Kind.DECISION, "q2")

    async def test_yes_is_said_where_it_is_offered(self, launcher: AgentLauncher, permission: Frame) -> None:
        yes = launcher.allow(permission)
        assert yes is not None
        assert (yes.kind, yes.ref) == (Kind.DECISION, permission.ref)
        assert yes != launcher.decline(permission, cancelled=False)
        assert launcher.allow(Frame(Kind.REQUEST, b"[1", "q2", "who/knows")) is None

    async def test_what_is_wanted_is_understood_or_said_not_to_be(
        self, launcher: AgentLauncher, permission: Frame
    ) -> None:
        use = launcher.tool_use(permission)
        assert use == ToolUse("edit", ("/a",))
        assert launcher.tool_use(Frame(Kind.REQUEST, b"[1", "q2", "who/knows")) is None


def _new_session() -> Session:
    """Return one with an id of its own, so that its processes are known among all of the machine's."""
    return make_session(SystemIds().new_id())


async def _launch(
    launcher: AgentLauncher, spec: AgentSpec, cwd: Path, session: Session | None = None
) -> Agent:
    session = session or _new_session()
    with anyio.fail_after(PATIENCE):
        return await launcher.launch(spec, session, cwd, _Records(session))


async def _until(kind: Kind, agent: Agent) -> list[Frame]:
    frames: list[Frame] = []
    with anyio.fail_after(PATIENCE):
        while not any(frame.kind is kind for frame in frames):
            await anyio.lowlevel.checkpoint()  # one that never waits is to fail, and not to hang
            received = await agent.receive()
            assert received, "`receive` returns at least one frame"
            frames += received
    return frames


async def _until_the_end(agent: Agent) -> None:
    with anyio.fail_after(PATIENCE):
        try:
            while True:
                await anyio.lowlevel.checkpoint()
                assert await agent.receive(), "`receive` returns at least one frame, or raises EndOfStream"
        except anyio.EndOfStream:
            return
