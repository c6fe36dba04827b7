"""open_relay: chooses by name what settings name, and puts it together."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from types import MappingProxyType
from typing import TypeVar

from relaykit.agent.launcher import AgentSpec, LauncherFactory
from relaykit.clock import Clock, SystemClock
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.meters import Meters
from relaykit.hooks.plugin_set import PluginSet, Provided
from relaykit.hooks.registration import PluginContext
from relaykit.ids import IdGenerator, SystemIds
from relaykit.relay.activity import flush_activity
from relaykit.relay.expiry import Expiry
from relaykit.relay.live_sessions import LiveSessions
from relaykit.relay.recovery import recover
from relaykit.relay.relay import Relay
from relaykit.relay.run_session import Parts
from relaykit.relay.running import RunningFile, running_file
from relaykit.relay.transcripts import Transcripts
from relaykit.session.cleaner import Cleaner
from relaykit.session.manager import Manager
from relaykit.settings import Settings
from relaykit.tasks import OwnedTasks

logger = logging.getLogger(__name__)

T = TypeVar("T")

Contexts = Callable[[str], PluginContext]


@asynccontextmanager
async def open_relay(
    settings: Settings,
    *,
    plugins: PluginSet | None = None,
    serve: bool = False,
    clock: Clock | None = None,
    ids: IdGenerator | None = None,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Relay]:
    """Run a relay for as long as the block lasts; leaving it ends every session in order.

    Runs on asyncio and on trio. For an application of one's own, this in its lifespan is all that it needs.

    :param plugins: by default those that are installed.
    :param serve: start the services that listen too, and be the one relay of the state directory.
    :param environ: where the variables that agents are to have come from.
    :raises PluginError: a plugin that the settings need is missing or broken.
    :raises SettingsError: a plugin's table is wrong.
    """
    clock = clock or SystemClock()
    ids = ids or SystemIds()
    plugins = plugins or load_plugins(settings)
    plugins.check_settings()
    meter = Meters()
    agents: dict[str, AgentSpec] = {}

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

    for name, provided in plugins.meters(context).items():
        meter.add(name, provided.value)
    agents |= _agents(settings, plugins, context, environ)

    # Everything is chosen before anything is opened: what is wrong with the settings is said at once.
    storages = plugins.storages(context)
    open_storage = _chosen(plugins, "storage", _storage_name(settings, storages, serve=serve), storages)
    workspace = _chosen(plugins, "workspace", settings.relay.workspace, plugins.workspaces(context))
    cleaners = _cleaners(settings, plugins, context, agents)
    launchers = _launchers(plugins, context, agents)
    services = [provided.value for provided in plugins.services(context).values()]
    routes = [provided.value for provided in plugins.routes(context).values()]
    messages = [provided.value for provided in plugins.messages(context).values()]

    async with AsyncExitStack() as stack:
        running = None
        if serve:
            running = stack.enter_context(running_file(settings.state_dir, started=clock.now()))
        dispatcher = Dispatcher(
            plugins,
            clock=clock,
            meter=meter,
            timeout=settings.relay.hook_timeout,
            on_switch_off=_switch_off(running),
        )
        store, journal = await stack.enter_async_context(open_storage())
        transcripts = Transcripts(journal, clock=clock, tail_bytes=settings.relay.tail_bytes)
        manager = await stack.enter_async_context(
            Manager(
                store=store,
                ids=ids,
                clock=clock,
                cleaners=cleaners,
                hooks=dispatcher,
                meter=meter,
                node=settings.relay.node,
                cleaner_timeout=settings.relay.cleaner_timeout,
                before_delete=transcripts.close,
            )
        )
        parts = Parts(
            manager=manager,
            workspace=workspace,
            workspace_plugin=settings.relay.workspace,
            launchers={
                name: await stack.enter_async_context(open_launcher())
                for name, open_launcher in launchers.items()
            },
        )
        tasks = await stack.enter_async_context(OwnedTasks())
        sessions = LiveSessions(
            agents=agents,
            parts=parts,
            transcripts=transcripts,
            dispatcher=dispatcher,
            meter=meter,
            clock=clock,
            tasks=tasks,
            durable=store.durable,
            max_queued_prompts=settings.relay.max_queued_prompts,
        )
        relay = Relay(
            settings=settings,
            plugins=plugins,
            agents=agents,
            routes=routes,
            messages=messages,
            running=running,
            manager=manager,
            sessions=sessions,
            transcripts=transcripts,
            dispatcher=dispatcher,
            meter=meter,
            clock=clock,
            ids=ids,
            tasks=tasks,
        )
        relay.start(partial(flush_activity, manager))
        # Before anybody is let in: who comes back finds every session in its place.
        await recover(manager, sessions, node=settings.relay.node)
        expiry = Expiry(manager, sessions, transcripts, settings=settings.relay, clock=clock)
        relay.start(expiry.run)
        for service in services:
            if serve or not service.listens:
                await stack.enter_async_context(service.open(relay))
                relay.listening = relay.listening or service.listens
        # The sessions end before anything that they need, and before the clients that want to hear of it.
        stack.push_async_callback(relay.aclose)
        yield relay


def _storage_name(settings: Settings, offered: Container[str], *, serve: bool) -> str:
    """Return the storage that is chosen, or the default one: a relay that is served does not forget, if it can."""
    return settings.relay.storage or ("sqlite" if serve and "sqlite" in offered else "memory")


def _chosen(plugins: PluginSet, kind: str, name: str, offered: Mapping[str, Provided[T]]) -> T:
    provided = offered.get(name)
    if provided is None:
        raise plugins.unknown(kind, name, offered)
    return provided.value


def _agents(
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
            env={variable: environ[variable] for variable in agent.env if variable in environ},
            launcher=agent.launcher,
            login=agent.login,
            mcp_servers=agent.mcp_servers,
        )
    return agents


def _launchers(
    plugins: PluginSet, contexts: Contexts, agents: Mapping[str, AgentSpec]
) -> Mapping[str, LauncherFactory]:
    """Return the launchers that agents name, and no other."""
    offered = plugins.launchers(contexts)
    return {name: _chosen(plugins, "launcher", name, offered) for name in _launcher_names(agents)}


def _cleaners(
    settings: Settings, plugins: PluginSet, contexts: Contexts, agents: Mapping[str, AgentSpec]
) -> Sequence[Cleaner]:
    """Return the cleaners that settings name, in their order, behind those of the launchers and the workspace."""
    offered = plugins.cleaners(contexts)
    defaults = [*_launcher_names(agents), settings.relay.workspace]
    names = [name for name in defaults if name in offered and name not in settings.relay.cleaners]
    return [_chosen(plugins, "cleaner", name, offered) for name in (*names, *settings.relay.cleaners)]


def _launcher_names(agents: Mapping[str, AgentSpec]) -> Sequence[str]:
    return sorted({spec.launcher for spec in agents.values()})


def _switch_off(running: RunningFile | None) -> Callable[[str, str, str], None] | None:
    if running is None:
        return None
    return lambda plugin, _hook, reason: running.set_switched_off(plugin, reason)
