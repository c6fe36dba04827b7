"""Examination: what ``relaykit doctor`` looks at by itself, and what plugins add. Nothing is changed by it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio

from relaykit.commands.storage_check import look_at_relay, look_at_storage
from relaykit.errors import RelaykitError, SettingsError
from relaykit.hooks.offers import NotAskedFor, demand
from relaykit.hooks.plugin_set import PluginSet, PluginState
from relaykit.hooks.registration import Check, Finding, Surroundings, Verdict
from relaykit.relay.choice import chosen, configured_agents, plugin_contexts
from relaykit.relay.defaults import default_agent
from relaykit.relay.running import read_running
from relaykit.settings import Settings
from relaykit.tasks import contained

if TYPE_CHECKING:
    from relaykit.agent.launcher import AgentSpec
    from relaykit.commands.invocation import Invocation
    from relaykit.hooks.plugin_set import Contexts

_SECONDS = 30.0
_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class Found:
    """A finding, and which check has made it."""

    check: str
    finding: Finding

    @property
    def verdict(self) -> Verdict:
        """How bad it is."""
        return self.finding.verdict

    @property
    def what(self) -> str:
        """What is so."""
        return self.finding.what

    @property
    def fix(self) -> str:
        """What to do about it."""
        return self.finding.fix


async def examine(invocation: Invocation, environ: Mapping[str, str]) -> Sequence[Found]:
    """Look at everything, and return what was found: also where something keeps the rest from being looked at.

    :param environ: whose ``PATH`` and variables count.
    """
    try:
        settings = invocation.load_settings()
    except RelaykitError as error:
        return [Found("settings", trouble(str(error)))]
    found = [Found("settings", finding) for finding in _settings(settings)]
    try:
        plugins = invocation.load_plugins()
    except RelaykitError as error:
        return [*found, Found("plugins", trouble(str(error)))]
    return [*found, *await _Examination(settings, plugins, environ).look()]


def trouble(what: str, fix: str = "") -> Finding:
    """Return a finding that something does not work."""
    return Finding(verdict=Verdict.TROUBLE, what=what, fix=fix)


def _ok(what: str) -> Finding:
    return Finding(verdict=Verdict.OK, what=what)


def _warning(what: str, fix: str = "") -> Finding:
    return Finding(verdict=Verdict.WARNING, what=what, fix=fix)


def _settings(settings: Settings) -> Iterator[Finding]:
    file = settings.sources.file
    yield _ok(f"{file} is read" if file else "there is no relaykit.toml, and none is needed")
    for name, project in settings.projects.items():
        if project.path.is_dir():
            yield _ok(f"project {name!r} is {project.path}")
        else:
            yield trouble(
                f"project {name!r}: there is no directory {project.path}",
                f"correct `path` in [projects.{name}]",
            )


class _Examination:
    """Looks at what good settings lead to."""

    def __init__(self, settings: Settings, plugins: PluginSet, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._plugins = plugins
        self._environ = environ
        self._agents: dict[str, AgentSpec] = {}
        self._contexts: Contexts = plugin_contexts(settings, plugins, agents=self._agents)

    async def look(self) -> list[Found]:
        found = [Found("plugins", finding) for finding in self._look_at_plugins()]
        found += [Found("state", finding) for finding in _state_directory(self._settings.state_dir)]
        try:
            running = read_running(self._settings.state_dir)
        except RelaykitError as error:  # storage, and what plugins look at, depend on whether one runs
            found.append(Found("relay", trouble(str(error))))
            found += [Found("agents", finding) for finding in self._look_at_agents()]
            return [*found, *(Found("parts", finding) for finding in self._look_at_parts())]
        sessions = None
        if running is not None:
            found.append(Found("relay", await look_at_relay(running)))
        else:
            findings, sessions = await look_at_storage(self._settings, self._plugins, self._contexts)
            found += [Found("storage", finding) for finding in findings]
        found += [Found("agents", finding) for finding in self._look_at_agents()]
        found += [Found("parts", finding) for finding in self._look_at_parts()]
        surroundings = Surroundings(
            running=running is not None, sessions=sessions, workspace=self._settings.relay.workspace
        )
        for check in self._checks(found):
            found += [Found(check.name, finding) for finding in await _in_time(check, surroundings)]
        return found

    def _look_at_plugins(self) -> Iterator[Finding]:
        records = self._plugins.records
        try:
            self._settings.check_plugins([record.name for record in records])
        except RelaykitError as error:
            yield trouble(str(error))
        for record in records:
            name = f"{record.name} {record.version}".strip()
            if record.state is PluginState.BROKEN:
                wanted = self._settings.names_plugin(record.name)
                tell = trouble if wanted else _warning
                yield tell(
                    f"{name} is broken: {record.reason}",
                    f"correct that, or reinstall it; or put {record.name!r} into `disabled`",
                )
            elif record.state is PluginState.BLOCKED:
                blocked = f"{name} is blocked: {record.reason}"
                if self._settings.lists_of(record.name):
                    yield _warning(
                        blocked, f"take {record.name!r} out of `disabled`, or them out of the file"
                    )
                else:
                    yield _ok(blocked)
            else:
                yield self._look_at_table(record.name, name)

    def _look_at_table(self, plugin: str, shown: str) -> Finding:
        try:
            self._plugins.settings_for(plugin)
        except RelaykitError as error:
            return trouble(str(error))
        return _ok(f"{shown} is loaded")

    def _look_at_agents(self) -> Iterator[Finding]:
        try:
            self._agents |= configured_agents(self._settings, self._plugins, self._contexts, self._environ)
        except RelaykitError as error:
            yield trouble(str(error))
            return
        for name, agent in self._settings.agents.items():
            program = agent.command[0]
            path = shutil.which(program, path=self._environ.get("PATH", os.defpath))
            if path is None:
                yield trouble(
                    f"{name}: there is no program {program!r} on PATH",
                    f"install it, or correct `command` in [agents.{name}]",
                )
            else:
                yield _ok(f"{name} is {path}")
            if missing := [variable for variable in agent.env if variable not in self._environ]:
                yield _warning(
                    f"{name}: not set in the environment: {', '.join(missing)}",
                    "set them where the relay starts",
                )
        default = default_agent(self._settings, self._agents)
        if default in self._agents:
            yield _ok(f"sessions that name no agent get {default}")
        elif default:
            yield trouble(f"there is no agent {default!r}", "correct `default_agent` in [relay]")
        else:
            yield _warning("sessions must name their agent", "set `default_agent` in [relay]")
        try:
            self._settings.check_rules("agent", self._agents)
        except SettingsError as error:
            yield trouble(str(error), "correct the rule: no relay starts with it")

    def _look_at_parts(self) -> Iterator[Finding]:
        """Look whether there is everything that settings choose by name."""
        offered = {
            "workspace": (self._plugins.workspaces, {self._settings.relay.workspace}),
            "launcher": (self._plugins.launchers, {spec.launcher for spec in self._agents.values()}),
            "cleaner": (self._plugins.cleaners, set(self._settings.relay.cleaners)),
        }
        for kind, (offers, names) in offered.items():
            for name in sorted(names):
                try:
                    chosen(self._plugins, kind, name, offers(self._contexts))
                except RelaykitError as error:
                    yield trouble(str(error))
                else:
                    yield _ok(f"the {kind} {name!r} is there")

    def _checks(self, found: list[Found]) -> Sequence[Check]:
        try:
            return [provided.value for provided in self._plugins.checks(self._contexts).values()]
        except RelaykitError as error:
            found.append(Found("plugins", trouble(str(error))))
            return ()


async def _in_time(check: Check, surroundings: Surroundings) -> Sequence[Finding]:
    try:
        with anyio.fail_after(_SECONDS):
            found = await contained(partial(check.look, surroundings))
        return _findings(found)
    except TimeoutError:
        return [trouble(f"it could not be looked at within {_SECONDS:g} s")]
    except Exception as error:  # noqa: BLE001 -- whatever it is, the other checks are worth their lines
        why = str(error) if isinstance(error, RelaykitError | NotAskedFor) else repr(error)
        return [trouble(f"it could not be looked at: {why}")]


def _findings(returned: object) -> Sequence[Finding]:
    right = isinstance(returned, Sequence) and all(isinstance(found, Finding) for found in returned)
    demand(returned, "a list of Finding", lambda _: None if right else "")
    return cast("Sequence[Finding]", returned)


def _state_directory(directory: Path) -> Iterator[Finding]:
    try:
        mode = directory.stat().st_mode
    except FileNotFoundError:
        yield _ok(f"{directory} is not there yet, and will be made")
        return
    except OSError as error:
        yield trouble(f"{directory} cannot be looked at: {error.strerror}", "correct `state_dir` in [relay]")
        return
    if not stat.S_ISDIR(mode):
        yield trouble(f"{directory} is no directory", "move it away, or correct `state_dir` in [relay]")
    elif not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield trouble(f"{directory} cannot be written to", f"chown it to yourself, and chmod 700 {directory}")
    elif stat.S_IMODE(mode) & ~_PRIVATE:
        yield _warning(f"others than you may look into {directory}", f"chmod 700 {directory}")
    else:
        yield _ok(f"{directory} is private, and can be written to")
