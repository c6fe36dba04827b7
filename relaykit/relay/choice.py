"""Choice: what settings name, among what plugins offer."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from relaykit.agent.launcher import AgentSpec, LauncherFactory
from relaykit.clock import Clock, SystemClock
from relaykit.hooks.meters import Meters
from relaykit.hooks.plugin_set import PluginSet, Provided
from relaykit.hooks.registration import PluginContext, StorageFactory
from relaykit.ids import IdGenerator, SystemIds
from relaykit.meter import Meter
from relaykit.relay.opened import check_launcher, check_storage, opened
from relaykit.settings import Settings

if TYPE_CHECKING:
    from relaykit.hooks.plugin_set import Contexts

logger = logging.getLogger(__name__)

T = TypeVar("T")


def plugin_contexts(
    settings: Settings,
    plugins: PluginSet,
    *,
    agents: Mapping[str, AgentSpec],
    clock: Clock | None = None,
    ids: IdGenerator | None = None,
    meter: Meter | None = None,
) -> Contexts:
    """Return what gives each plugin its context, the same one whenever it is asked for.

    :param agents: filled later, if need be.
    """
    clock, ids, meter = clock or SystemClock(), ids or SystemIds(), meter or Meters()

    @cache
    def context(name: str) -> PluginContext:
        return PluginContext(
            name=name,
            settings=plugins.settings_for(name),
            projects=MappingProxyType({key: project.path for key, project in settings.projects.items()}),
            agents=MappingProxyType(agents),
            state_dir=settings.state_dir,
            node=settings.relay.node,
            clock=clock,
            ids=ids,
            meter=meter,
        )

    return context


def chosen(plugins: PluginSet, kind: str, name: str, offered: Mapping[str, Provided[T]]) -> T:
    """Return what is offered under a name.

    :raises UnknownImplementation: nothing is; the message lists what there is.
    """
    return _chosen(plugins, kind, name, offered).value


def _chosen(plugins: PluginSet, kind: str, name: str, offered: Mapping[str, Provided[T]]) -> Provided[T]:
    provided = offered.get(name)
    if provided is None:
        raise plugins.unknown(kind, name, offered)
    return provided


def configured_agents(
    settings: Settings, plugins: PluginSet, contexts: Contexts, environ: Mapping[str, str]
) -> Mapping[str, AgentSpec]:
    """Return the agents that plugins know, and over them those that settings configure."""
    agents = {name: provided.value for name, provided in plugins.agents(contexts).items()}
    for name, agent in settings.agents.items():
        if missing := [variable for variable in agent.env if variable not in environ]:
            logger.warning("agent %r: not set in the environment: %s", name, ", ".join(missing))
        agents[name] = AgentSpec(
            name=name,
            command=agent.command,
            env=MappingProxyType(
                {variable: environ[variable] for variable in agent.env if variable in environ}
            ),
            launcher=agent.launcher,
            login=agent.login,
            mcp_servers=agent.mcp_servers,
        )
    return agents


def _storage_name(settings: Settings, offered: Container[str], *, serve: bool) -> str:
    """Return the storage that is chosen, or the default one: a relay that is served does not forget, if it can."""
    return settings.relay.storage or ("sqlite" if serve and "sqlite" in offered else "memory")


def chosen_storage(
    settings: Settings, plugins: PluginSet, contexts: Contexts, *, serve: bool = True
) -> tuple[str, StorageFactory]:
    """Return the storage that is chosen, and its name.

    :param serve: that of ``relaykit serve``, also for who looks into it without a relay.
    :raises PluginError: it is not offered, or broken; also when it is opened.
    """
    offered = plugins.storages(contexts)
    name = _storage_name(settings, offered, serve=serve)
    found = _chosen(plugins, "storage", name, offered)
    return name, partial(
        opened, found.value, plugin=found.plugin, what=f"storage {name!r}", check=check_storage
    )


def chosen_launcher(
    plugins: PluginSet, name: str, offered: Mapping[str, Provided[LauncherFactory]]
) -> LauncherFactory:
    """Return a launcher by its name.

    :raises PluginError: it is not offered, or broken; also when it is opened.
    """
    found = _chosen(plugins, "launcher", name, offered)
    return partial(opened, found.value, plugin=found.plugin, what=f"launcher {name!r}", check=check_launcher)
