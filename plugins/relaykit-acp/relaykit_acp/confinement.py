"""Confinement: limits of memory, processes and CPU for each agent, where control groups can enforce them.

There is nothing in their place where they cannot. The rlimits that sound alike are not safe: RLIMIT_AS and RLIMIT_DATA
count what JavaScript engines and JVMs reserve and never use (opencode 1.18, idle: 0.6 GB resident, 74 GB of either),
and each process by itself; RLIMIT_NPROC counts all that this user runs; and RLIMIT_CPU ends an agent that has lived
for long. So what cannot be enforced is said, and not imitated.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.errors import SpawnError
from relaykit_acp import cgroups
from relaykit_acp.cgroups import AgentGroup, group_name
from relaykit_acp.limits import Limit, limits_of
from relaykit_acp.process import AgentProcess
from relaykit_acp.settings import AcpSettings

logger = logging.getLogger(__name__)

ADVICE = (
    "run the relay where a control group is its own to divide: as a systemd unit with `Delegate=yes`, or by "
    "`systemd-run --user --scope -p Delegate=yes relaykit serve`"
)

_LOOK = 1.0
"""Seconds between two looks at what nothing else tells: a process that could not be started."""


class Confinement:
    """Where agents get groups of their own.

    :param base: the group below which they are made; None: they get none.
    """

    def __init__(self, base: Path | None, limits: Sequence[Limit]) -> None:
        self._base = base
        self._limits = limits

    def group_for(self, session_id: str) -> AgentGroup | None:
        """Return the group for a session's agent, which is to be made; None if agents get none."""
        return AgentGroup(self._base / group_name(session_id), self._limits) if self._base else None


async def open_confinement(settings: AcpSettings) -> Confinement:
    """Prepare what the settings' limits need, and log what of them cannot be enforced.

    Where they can, this process moves to a group below its own, with all that it has started.
    """
    limits = limits_of(settings)
    if not limits:
        return Confinement(None, ())
    found = await to_thread.run_sync(cgroups.plan, limits, cgroups.own_group())
    unenforced = list(found.unenforced)
    try:
        await to_thread.run_sync(cgroups.carry_out, found)
    except OSError as error:
        why = f"the group {found.base} cannot be divided: {error.strerror}"
        unenforced += [(limit, why) for limit in found.enforced]
        found = cgroups.Plan(base=None, enforced=(), unenforced=unenforced)
    for limit, why in unenforced:
        logger.warning("%s in [plugins.acp] is NOT enforced: %s; %s", limit, why, ADVICE)
    return Confinement(found.base, found.enforced)


@asynccontextmanager
async def made(group: AgentGroup | None, *, agent: str) -> AsyncIterator[None]:
    """Make an agent's group, and remove it if the agent is not started in this block."""
    if group is None:
        yield
        return
    try:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(group.make)
        yield
    except OSError as error:
        await group.aclose()
        raise SpawnError(
            f"the control group {str(group.path)!r} for its limits cannot be made: {error.strerror}",
            agent=agent,
        ) from error
    except BaseException:
        await group.aclose()
        raise


async def watch_limits(process: AgentProcess, group: AgentGroup, *, label: str) -> None:
    """End an agent as soon as it has hit a limit, until it has ended by itself."""
    with anyio.CancelScope(shield=True):
        while not process.exited.is_set():
            with anyio.move_on_after(_LOOK):
                await process.exited.wait()
            limit = group.exceeded()
            if limit is not None:
                logger.warning("%s: it is over its limit, %s: SIGKILL", label, limit)
                await to_thread.run_sync(group.kill)
                return
