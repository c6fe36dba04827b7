"""What ``relaykit doctor`` says of agents: whether somebody is logged in, and what an ended relay has left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from relaykit.hooks.registration import Check, Finding, PluginContext, Surroundings, Verdict
from relaykit_acp import cgroups, processes
from relaykit_acp.confinement import ADVICE
from relaykit_acp.environment import NODE_VARIABLE, SESSION_VARIABLE
from relaykit_acp.finding import ECHO, Login, find_agents, login_command, login_state
from relaykit_acp.known_agents import known_agent
from relaykit_acp.limits import limits_of

if TYPE_CHECKING:
    from relaykit.agent.launcher import AgentSpec
    from relaykit_acp.settings import AcpSettings


def checks(context: PluginContext) -> Sequence[Check]:
    """Return the plugin's checks."""

    async def look_at_logins(_surroundings: Surroundings) -> Sequence[Finding]:
        return await to_thread.run_sync(logins, context.agents, os.environ)

    async def look_for_leftovers(surroundings: Surroundings) -> Sequence[Finding]:
        return await to_thread.run_sync(leftovers, surroundings, context.node)

    async def look_at_limits(_surroundings: Surroundings) -> Sequence[Finding]:
        return await to_thread.run_sync(limits, context.settings, cgroups.own_group())

    return [
        Check(name="logins", look=look_at_logins),
        Check(name="limits", look=look_at_limits),
        Check(name="processes", look=look_for_leftovers),
    ]


def logins(agents: Mapping[str, AgentSpec], environment: Mapping[str, str]) -> Sequence[Finding]:
    """Say of each agent that is known whether somebody is logged in. Reads files: blocks.

    Those that are only offered, because npx could fetch them, are nobody's yet, and left out.
    """
    offered = [found.spec for found in find_agents(environment) if found.path is None]
    used = [spec for spec in agents.values() if spec not in offered]
    found = [_login(spec, environment) for spec in used if known_agent(spec.command) is not None]
    if {spec.name for spec in used} <= {ECHO.name}:
        found.append(
            Finding(
                verdict=Verdict.WARNING,
                what="no coding agent is found here: only echo answers",
                fix="`relaykit agents` lists those that are known, and how to install them",
            )
        )
    return found


def _login(spec: AgentSpec, environment: Mapping[str, str]) -> Finding:
    known = known_agent(spec.command)
    state = Login.UNTOLD
    if known is not None:
        state = login_state(known, spec.env, Path(environment.get("HOME") or Path.home()))
    if state is Login.MISSING:
        login = spec.login or (login_command(known, environment) if known is not None else None)
        fix = f"run `{login}`" if login else "log it in"
        return Finding(verdict=Verdict.WARNING, what=f"{spec.name}: {state}", fix=fix)
    told = state or "whether somebody is logged in shows when it starts"
    return Finding(verdict=Verdict.OK, what=f"{spec.name}: {told}")


def limits(settings: AcpSettings, own: Path | None) -> Sequence[Finding]:
    """Say of each limit that is set whether it can be enforced from here. Reads files: blocks.

    :param own: see `cgroups.own_group`.
    """
    found = cgroups.plan(limits_of(settings), own)
    enforced = [
        Finding(verdict=Verdict.OK, what=f"{limit} can be enforced, below {found.base}")
        for limit in found.enforced
    ]
    unenforced = [
        Finding(
            verdict=Verdict.WARNING,
            what=f"{limit} is not enforced by a relay that starts here: {why}",
            fix=ADVICE,
        )
        for limit, why in found.unenforced
    ]
    nothing = Finding(verdict=Verdict.OK, what="agents may use all memory, processes and CPUs that there are")
    return [*enforced, *unenforced] or [nothing]


def leftovers(surroundings: Surroundings, node: str) -> Sequence[Finding]:
    """Say which processes of agents run although no relay does. Looks at every process: blocks."""
    if surroundings.running:
        return [Finding(verdict=Verdict.OK, what="the relay that runs looks after its agents")]
    if not processes.HAS_PROC:
        return [Finding(verdict=Verdict.OK, what="this system does not show whose processes are whose")]
    ours = set(processes.marked(f"{NODE_VARIABLE}={node}"))
    found = []
    for entry, pids in sorted(processes.marked_by(SESSION_VARIABLE).items()):
        left = sorted(ours.intersection(pids))
        if left:
            found.append(_left(entry.partition("=")[2], left, surroundings.sessions))
    return found or [Finding(verdict=Verdict.OK, what="no process of an agent is left")]


def _left(session_id: str, pids: Sequence[int], sessions: Mapping[str, object] | None) -> Finding:
    shown = ", ".join(map(str, pids))
    if sessions and session_id in sessions:
        return Finding(
            verdict=Verdict.WARNING,
            what=f"processes of session {session_id} are left, of a relay that was killed: {shown}",
            fix="the next `relaykit serve` ends them",
        )
    return Finding(
        verdict=Verdict.WARNING,
        what=f"processes of session {session_id}, which is not stored here, run: {shown}",
        fix=f"unless a relay with another state directory has them: kill {shown.replace(',', '')}",
    )
