"""A workspace and a launcher with a stopwatch: how long sessions take to start, and how often they cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentLauncher, AgentSpec, Record
from relaykit.agent.workspace import Say, Workspace
from relaykit.clock import Clock
from relaykit.meter import AGENT_SHUTDOWN, AGENT_SPAWN, AGENT_SPAWN_FAILURES, WORKSPACE_PREPARE, Meter
from relaykit.relay.contained_start import Close, ContainedLauncher, ContainedWorkspace
from relaykit.session.model import Session

_OTHER = "other"
_ERRORS = frozenset(AGENT_SPAWN_FAILURES.labels["error"])


class MeasuredLauncher(ContainedLauncher):
    """A launcher whose starts are measured."""

    def __init__(
        self, launcher: AgentLauncher, *, name: str, close: Close, clock: Clock, meter: Meter
    ) -> None:
        super().__init__(launcher, name=name, close=close)
        self._clock = clock
        self._meter = meter

    async def launch(
        self, spec: AgentSpec, session: Session, cwd: Path, record: Record, /, *, resume: bool = False
    ) -> Agent:
        """Start the agent, and measure it. A start that is cancelled is neither a success nor a failure."""
        started = self._clock.monotonic()
        with _failures_counted(self._meter, spec.name):
            agent = await super().launch(spec, session, cwd, record, resume=resume)
        self._meter.observe(AGENT_SPAWN, self._clock.monotonic() - started, agent=spec.name)
        return agent


class MeasuredWorkspace(ContainedWorkspace):
    """A workspace whose preparations are measured."""

    def __init__(self, workspace: Workspace, *, name: str, clock: Clock, meter: Meter) -> None:
        super().__init__(workspace, name=name)
        self._clock = clock
        self._meter = meter

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        """Prepare it, and measure it as `MeasuredLauncher.launch` does."""
        started = self._clock.monotonic()
        with _failures_counted(self._meter, session.agent):
            path = await super().prepare(session, record, say)
        self._meter.observe(WORKSPACE_PREPARE, self._clock.monotonic() - started)
        return path


def expect_agents(agents: Iterable[str], meter: Meter) -> None:
    """Have every agent be seen before it is first started."""
    for agent in agents:
        for figure in (AGENT_SPAWN, AGENT_SPAWN_FAILURES, AGENT_SHUTDOWN):
            meter.expect(figure, agent=agent)


@contextmanager
def _failures_counted(meter: Meter, agent: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        meter.count(AGENT_SPAWN_FAILURES, agent=agent, error=_name_of(error))
        raise


def _name_of(error: Exception) -> str:
    """Return the class of the error as the figure knows it: its own, or the nearest that it is one of."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), _OTHER)
