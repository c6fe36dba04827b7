"""200 tasks at once over 5 roles: one winner each, and cleaners once per session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import anyio
import anyio.lowlevel
import pytest

from relaykit.errors import DuplicateRole, SessionNotFound, TransitionError
from relaykit.session import CleanupReport, Manager, MemoryStore, SessionFilter, SessionState, Store
from relaykit.testing import FakeConnection, HoppingStore, RecordingCleaner, RecordingHooks
from support.managers import make_manager

pytestmark = pytest.mark.anyio

ROLES = ["auth", "db", "tests", "docs", "web"]
TASKS = 200
ALL = SessionFilter()
CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=["memory", "hopping"])
def store(memory: MemoryStore, request: pytest.FixtureRequest) -> Store:
    return HoppingStore(memory) if request.param == "hopping" else memory


async def race(runner: Callable[[int], Awaitable[None]]) -> None:
    """Run 200 at once, none before all are ready."""
    start = anyio.Event()

    async def run(number: int) -> None:
        await start.wait()
        await runner(number)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(TASKS):
                tasks.start_soon(run, number)
            start.set()


class Steps:
    """The steps of a session's life, each to be raced for: task number n plays role n modulo 5."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self.ids: dict[str, str] = {}
        self.agents = [FakeConnection() for _ in range(TASKS)]
        self.reports: list[CleanupReport] = []
        self.won: Counter[str] = Counter()

    def id_for(self, number: int) -> str:
        return self.ids[ROLES[number % 5]]

    async def create(self, number: int) -> None:
        role = ROLES[number % 5]
        with suppress(DuplicateRole):
            session = await self._manager.create(role, FakeConnection())
            assert role not in self.ids
            self.ids[role] = session.id

    async def spawn(self, number: int) -> None:
        with suppress(TransitionError):
            await self._manager.begin_spawn(self.id_for(number))
            self.won[f"spawn {self.id_for(number)}"] += 1

    async def attach(self, number: int) -> None:
        agent = self.agents[number]
        with suppress(TransitionError):
            await self._manager.attach_agent(self.id_for(number), f"/work/{number}", agent)
            self.won[f"attach {self.id_for(number)}"] += 1
            handle = self._manager.handle(self.id_for(number))
            assert handle is not None
            assert handle.agent is agent

    async def terminate(self, number: int) -> None:
        await self._manager.mark_terminating(self.id_for(number), f"by task {number}")

    async def clean(self, number: int) -> None:
        self.reports.append(await self._manager.complete_cleanup(self.id_for(number)))


async def test_every_step_is_won_once(store: Store, memory: MemoryStore) -> None:
    cleaner, hooks = RecordingCleaner(), RecordingHooks()
    async with make_manager(store=store, cleaners=[cleaner], hooks=hooks) as manager:
        steps = Steps(manager)
        await race(steps.create)
        assert sorted(steps.ids) == sorted(ROLES)
        await race(steps.spawn)
        await race(steps.attach)
        assert len(steps.won) == 10
        assert set(steps.won.values()) == {1}
        assert [agent.closed for agent in steps.agents].count(False) == 5
        await race(steps.terminate)
        assert await manager.count(SessionFilter(state=TERMINATING)) == 5
        await race(steps.clean)

    assert all(agent.closed for agent in steps.agents)
    assert await memory.count(ALL) == 0
    for session_id in steps.ids.values():
        assert cleaner.runs_for(session_id) == 1
        told = [
            (transition.after.state, transition.after.version) for transition in hooks.heard_of(session_id)
        ]
        assert told == [(CREATED, 1), (SPAWNING, 2), (ACTIVE, 3), (TERMINATING, 4), (CLEANED, 5)]
    # Who came when all was over has an empty report; everybody else has the one that there is.
    reports = {id(report): report for report in steps.reports if report != CleanupReport()}
    assert sorted(report.session.id for report in reports.values() if report.session) == sorted(
        steps.ids.values()
    )


class Moves:
    """Random moves against whatever session has a role at the time."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self.connections: dict[str, FakeConnection] = {}
        self.agents: list[FakeConnection] = []
        self.won: Counter[str] = Counter()

    async def play(self, random: Random) -> None:
        moves = [self.create, self.spawn, self.attach, self.terminate, self.clean, self.hear, self.record]
        for move in random.choices(moves, weights=[3, 2, 2, 1, 1, 1, 1], k=6):
            try:
                await move(random.choice(ROLES))
            except (DuplicateRole, SessionNotFound, TransitionError):
                await anyio.lowlevel.checkpoint()

    async def find(self, role: str) -> str:
        session = await self._manager.get_by_role(role)
        return "nobody" if session is None else session.id

    async def create(self, role: str) -> None:
        connection = FakeConnection()
        session = await self._manager.create(role, connection)
        self.connections[session.id] = connection

    async def spawn(self, role: str) -> None:
        session_id = await self.find(role)
        await self._manager.begin_spawn(session_id)
        self.won[f"spawn {session_id}"] += 1

    async def attach(self, role: str) -> None:
        session_id = await self.find(role)
        self.agents.append(agent := FakeConnection())
        await self._manager.attach_agent(session_id, "/work", agent)
        self.won[f"attach {session_id}"] += 1

    async def terminate(self, role: str) -> None:
        await self._manager.mark_terminating(await self.find(role), "a random move")

    async def clean(self, role: str) -> None:
        await self._manager.complete_cleanup(await self.find(role))

    async def hear(self, role: str) -> None:
        await self._manager.increment_message_count(await self.find(role))
        await self._manager.flush_activity()

    async def record(self, role: str) -> None:
        await self._manager.record(await self.find(role), "git", {"branch": role})


@pytest.mark.parametrize("seed", range(3))
async def test_everything_at_once(store: Store, memory: MemoryStore, seed: int) -> None:
    cleaner, hooks = RecordingCleaner(), RecordingHooks()
    async with make_manager(store=store, cleaners=[cleaner], hooks=hooks) as manager:
        moves = Moves(manager)

        async def play(number: int) -> None:
            await moves.play(Random(seed * TASKS + number))

        await race(play)
        living = await memory.list(ALL)
        assert len({session.agent_id for session in living}) == len(living)

    assert await memory.count(ALL) == 0
    assert set(moves.won.values()) == {1}
    assert len(moves.connections) > len(ROLES)
    assert all(closable.closed for closable in [*moves.connections.values(), *moves.agents])
    assert Counter(session.id for session, _ in cleaner.cleaned) == Counter(list(moves.connections))
    for session_id in moves.connections:
        told = [transition.after for transition in hooks.heard_of(session_id)]
        assert (told[0].state, told[-1].state) == (CREATED, CLEANED)
        assert len({session.state for session in told}) == len(told)
        versions = [session.version for session in told]
        assert versions == sorted(set(versions))
