"""open_relay: chooses by name what settings name, and puts it together."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from relaykit.agent.launcher import AgentLauncher, AgentSpec, LauncherFactory
from relaykit.agent.workspace import Workspace
from relaykit.clock import Clock, SystemClock
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.meters import Meters
from relaykit.hooks.plugin_set import PluginSet
from relaykit.ids import IdGenerator, SystemIds
from relaykit.relay.activity import flush_activity
from relaykit.relay.choice import (
    chosen,
    chosen_launcher,
    chosen_storage,
    configured_agents,
    plugin_contexts,
)
from relaykit.relay.contained_start import Close, ContainedLauncher, ContainedWorkspace
from relaykit.relay.expiry import Expiry
from relaykit.relay.gauges import watch_sessions
from relaykit.relay.live_sessions import LiveSessions
from relaykit.relay.locator import Locator, OnlyHere
from relaykit.relay.measured_start import MeasuredLauncher, MeasuredWorkspace, expect_agents
from relaykit.relay.measured_storage import measured
from relaykit.relay.opened import opened
from relaykit.relay.recovery import recover
from relaykit.relay.relay import Relay
from relaykit.relay.run_session import Parts
from relaykit.relay.running import RunningFile, running_file
from relaykit.relay.transcripts import Transcripts
from relaykit.session.cleaner import Cleaner
from relaykit.session.cleanup import close_at_last
from relaykit.session.manager import Manager
from relaykit.settings import Settings
from relaykit.tasks import OwnedTasks

if TYPE_CHECKING:
    from relaykit.hooks.plugin_set import Contexts, Provided
    from relaykit.hooks.registration import Service


@asynccontextmanager
async def open_relay(
    settings: Settings,
    *,
    plugins: PluginSet | None = None,
    serve: bool = False,
    clock: Clock | None = None,
    ids: IdGenerator | None = None,
    environ: Mapping[str, str] = os.environ,
    locator: Locator | None = None,
) -> AsyncIterator[Relay]:
    """Run a relay for as long as the block lasts; leaving it ends every session in order.

    Runs on asyncio and on trio. For an application of one's own, this in its lifespan is all that it needs.

    :param plugins: by default those that are installed.
    :param serve: start the services that listen too, and be the one relay of the state directory.
    :param environ: where the variables that agents are to have come from.
    :param locator: knows which sessions live elsewhere; by default none does.
    :raises PluginError: a plugin that the settings need is missing or broken.
    :raises SettingsError: a plugin's table is wrong.
    """
    clock = clock or SystemClock()
    ids = ids or SystemIds()
    plugins = plugins or load_plugins(settings)
    plugins.check_settings()
    meter = Meters()
    agents: dict[str, AgentSpec] = {}

    context = plugin_contexts(settings, plugins, agents=agents, clock=clock, ids=ids, meter=meter)
    for name, provided in plugins.meters(context).items():
        meter.add(name, provided.value)
    agents |= configured_agents(settings, plugins, context, environ)
    settings.check_rules("agent", agents)
    expect_agents(agents, meter)

    # Everything is chosen before anything is opened: what is wrong with the settings is said at once.
    _, open_storage = chosen_storage(settings, plugins, context, serve=serve)
    workspace = chosen(plugins, "workspace", settings.relay.workspace, plugins.workspaces(context))
    cleaners = _cleaners(settings, plugins, context, agents)
    launchers = _launchers(plugins, context, agents)
    services = list(plugins.services(context).values())
    routes = [provided.value for provided in plugins.routes(context).values()]
    messages = [provided.value for provided in plugins.messages(context).values()]

    interests = plugins.interests(context)

    async with AsyncExitStack() as stack:
        running = None
        if serve:
            running = stack.enter_context(running_file(settings.state_dir, started=clock.now()))
        hook_calls = await stack.enter_async_context(OwnedTasks())
        dispatcher = Dispatcher(
            plugins,
            clock=clock,
            meter=meter,
            timeout=settings.relay.hook_timeout,
            tasks=hook_calls,
            interests=interests,
            on_switch_off=_switch_off(running),
        )
        stack.callback(dispatcher.leave)
        store, journal = await stack.enter_async_context(open_storage())
        if meter.listening:
            store, journal = measured(store, journal, clock=clock, meter=meter)
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
        close = partial(close_at_last, within=settings.relay.cleaner_timeout)
        parts = Parts(
            manager=manager,
            workspace=_contained(workspace, settings, clock, meter),
            workspace_plugin=settings.relay.workspace,
            launchers={
                name: await stack.enter_async_context(_opened(name, open_launcher, close, clock, meter))
                for name, open_launcher in launchers.items()
            },
            close=close,
            resume_crashed=settings.relay.on_crash == "resume",
            meter=meter,
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
            settings=settings,
        )
        watch_sessions(meter, sessions)
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
            locator=locator or OnlyHere(settings.relay.node),
        )
        # Also when it does not come to be open: what slept before this start sleeps on after it.
        stack.push_async_callback(relay.aclose)
        relay.start(partial(flush_activity, manager))
        # Before anybody is let in: who comes back finds every session in its place.
        await recover(manager, sessions, node=settings.relay.node)
        expiry = Expiry(manager, sessions, transcripts, settings=settings.relay, clock=clock)
        relay.start(expiry.run)
        for service in services:
            if serve or not service.value.listens:
                await stack.enter_async_context(_running(service, relay))
                relay.listening = relay.listening or service.value.listens
        # Open: sessions end before anything that they need, and before the clients that want to hear of it.
        stack.push_async_callback(relay.aclose)
        yield relay


def _contained(workspace: Workspace, settings: Settings, clock: Clock, meter: Meters) -> Workspace:
    name = settings.relay.workspace
    if meter.listening:
        return MeasuredWorkspace(workspace, name=name, clock=clock, meter=meter)
    return ContainedWorkspace(workspace, name=name)


@asynccontextmanager
async def _opened(
    name: str, open_launcher: LauncherFactory, close: Close, clock: Clock, meter: Meters
) -> AsyncIterator[AgentLauncher]:
    async with open_launcher() as launcher:
        if meter.listening:
            yield MeasuredLauncher(launcher, name=name, close=close, clock=clock, meter=meter)
        else:
            yield ContainedLauncher(launcher, name=name, close=close)


def _running(service: Provided[Service], relay: Relay) -> AbstractAsyncContextManager[None]:
    what = f"service {service.value.name!r}"
    return opened(partial(service.value.open, relay), plugin=service.plugin, what=what)


def _launchers(
    plugins: PluginSet, contexts: Contexts, agents: Mapping[str, AgentSpec]
) -> Mapping[str, LauncherFactory]:
    """Return the launchers that agents name, and no other."""
    offered = plugins.launchers(contexts)
    return {name: chosen_launcher(plugins, name, offered) for name in _launcher_names(agents)}


def _cleaners(
    settings: Settings, plugins: PluginSet, contexts: Contexts, agents: Mapping[str, AgentSpec]
) -> Sequence[Cleaner]:
    """Return the cleaners that settings name, in their order, behind those of the launchers and the workspace."""
    offered = plugins.cleaners(contexts)
    defaults = [*_launcher_names(agents), settings.relay.workspace]
    names = [name for name in defaults if name in offered and name not in settings.relay.cleaners]
    return [chosen(plugins, "cleaner", name, offered) for name in (*names, *settings.relay.cleaners)]


def _launcher_names(agents: Mapping[str, AgentSpec]) -> Sequence[str]:
    return sorted({spec.launcher for spec in agents.values()})


def _switch_off(running: RunningFile | None) -> Callable[[str, str, str], None] | None:
    if running is None:
        return None
    return lambda plugin, _hook, reason: running.set_switched_off(plugin, reason)
