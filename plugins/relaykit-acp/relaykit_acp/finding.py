"""Which of the known agents are here: by PATH, and by npx where that is found."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from relaykit.agent.launcher import AgentSpec
from relaykit_acp.known_agents import KNOWN_AGENTS, KnownAgent

# By its path, isolated and without site-packages: it starts in half the time that `-m` would take.
ECHO = AgentSpec(
    name="echo", command=(sys.executable, "-I", "-S", str(Path(__file__).with_name("echo_agent.py")))
)
"""The agent that always is there."""


class Login(StrEnum):
    """Whether somebody has logged an agent in, as far as that can be told without starting it."""

    DONE = "logged in"
    MISSING = "no login found"
    UNTOLD = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAgent:
    """A known agent that can be started here.

    :param path: its program; None: it comes through npx, which fetches it at first use.
    """

    known: KnownAgent
    path: str | None
    spec: AgentSpec


def offered_agents(environment: Mapping[str, str]) -> Mapping[str, AgentSpec]:
    """Return what can be started here, in order of preference.

    First the known agents that this person uses, because a program of theirs is on PATH. Then echo. Then those that
    npx could fetch: they are there for who names them, and nobody gets one unasked.

    :param environment: whose ``PATH`` counts.
    """
    found = find_agents(environment)
    used = [agent for agent in found if agent.path or _on_path(agent.known.login[:1], environment)]
    others = [agent for agent in found if agent not in used]
    specs = [*(agent.spec for agent in used), ECHO, *(agent.spec for agent in others)]
    return {spec.name: spec for spec in specs}


def find_agents(environment: Mapping[str, str]) -> Sequence[FoundAgent]:
    """Return the known agents that can be started here, in the table's order."""
    npx = _on_path(("npx",), environment)
    found = []
    for known in KNOWN_AGENTS:
        path = _on_path(known.command, environment)
        if path is None and (npx is None or known.package is None):
            continue
        command = known.command if path else ("npx", "--yes", str(known.package), *known.command[1:])
        spec = AgentSpec(name=known.name, command=command, login=login_command(known, environment))
        found.append(FoundAgent(known=known, path=path, spec=spec))
    return found


def login_command(known: KnownAgent, environment: Mapping[str, str]) -> str | None:
    """Return the command that logs an agent in here, for people."""
    if not known.login:
        return None
    package = known.login_package or known.package
    if package is None or _on_path(known.login, environment) or not _on_path(("npx",), environment):
        return " ".join(known.login)
    return " ".join(("npx", "--yes", package, *known.login[1:]))


def login_state(known: KnownAgent, granted: Mapping[str, str], home: Path) -> Login:
    """Tell whether somebody has logged an agent in.

    :param granted: the variables that its settings pass on.
    :param home: of the user whom it runs as.
    """
    if any(granted.get(name) for name in known.variables):
        return Login.DONE
    if any((home / file).is_file() for file in known.credentials):
        return Login.DONE
    return Login.MISSING if known.absence_tells else Login.UNTOLD


def _on_path(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    return shutil.which(command[0], path=environment.get("PATH", os.defpath)) if command else None
