"""PluginSet: the plugins of one relay, what became of each, and what they register."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from relaykit.errors import PluginError, PluginLoadError, RelaykitError, SettingsError, UnknownImplementation
from relaykit.hooks import registration
from relaykit.hooks.offers import NotAskedFor, demand, function, instance_of, like, mapping_of, sequence_of

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    import pluggy

    from relaykit.agent.launcher import AgentSpec, LauncherFactory
    from relaykit.agent.workspace import Workspace
    from relaykit.hooks.registration import (
        Check,
        Command,
        MessageType,
        PluginContext,
        Route,
        Service,
        StorageFactory,
    )
    from relaykit.meter import Meter
    from relaykit.session.cleaner import Cleaner
    from relaykit.settings import Settings

    Contexts = Callable[[str], PluginContext]
    """Gives the context of the plugin of this name."""

T_co = TypeVar("T_co", covariant=True)

BUILTIN = "relaykit"
"""The name of the plugin that relaykit itself brings."""


class PluginState(StrEnum):
    """What became of a plugin."""

    LOADED = "loaded"
    BLOCKED = "blocked"  # by [relay] disabled: it was not imported
    SWITCHED_OFF = "switched off"  # while it ran: some of its hooks overran again and again
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRecord:
    """A plugin, for people.

    :param version: of its distribution; empty for one that no distribution announces.
    :param hooks: those that it implements, sorted; empty unless it is loaded.
    :param reason: why it is not simply loaded, or what it uses that is deprecated.
    """

    name: str
    version: str
    distribution: str
    state: PluginState
    hooks: tuple[str, ...]
    reason: str


@dataclass(slots=True)
class Plugin:
    """A plugin as the loader and the dispatcher know it. Its distribution's metadata is read when it is shown."""

    name: str
    distribution: Distribution | None = None
    state: PluginState = PluginState.LOADED
    hooks: tuple[str, ...] = ()
    reason: str = ""

    def record(self, own_version: str) -> PluginRecord:
        """Return what is shown of it."""
        distribution = self.distribution
        own = BUILTIN if self.name == BUILTIN else ""
        return PluginRecord(
            name=self.name,
            version=distribution.version if distribution else own and own_version,
            distribution=distribution.name if distribution else own,
            state=self.state,
            hooks=self.hooks,
            reason=self.reason,
        )


@dataclass(frozen=True, slots=True)
class Provided(Generic[T_co]):
    """Something that a plugin registered, and the plugin's name."""

    plugin: str
    value: T_co


@dataclass(frozen=True, slots=True)
class Implementation:
    """One plugin's implementation of one hook.

    :param argnames: the arguments that it takes, in its order; it is called with these alone, by position. There is
        more than one where an argument goes by a deprecated name too: each is the same.
    """

    plugin: str
    function: Callable[..., Any]
    argnames: tuple[str, ...]


class PluginSet:
    """The plugins of one relay. Made by `load_plugins`; nothing in it is shared with another relay.

    A method for each register hook calls every implementation once, in pluggy's order (the plugin registered
    last goes first, but for ``tryfirst`` and ``trylast``), and returns what they offer, by name, with the
    plugin that offers it. Each raises `PluginLoadError`, with the plugin's name, when an implementation
    raises, returns something else than its hook asks for, or a name that another plugin has taken; and
    `SettingsError` when a plugin's table is wrong. A hook may return None: it offers nothing.
    """

    def __init__(self, manager: pluggy.PluginManager, plugins: Sequence[Plugin], settings: Settings) -> None:
        self._manager = manager
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self._settings = settings
        self._types: Mapping[str, type] | None = None

    @property
    def records(self) -> Sequence[PluginRecord]:
        """What became of every installed plugin: relaykit's own part first, then by name."""
        from importlib import metadata

        own = metadata.version("relaykit")
        return tuple(plugin.record(own) for plugin in self._plugins.values())

    def asynchronous_hooks(self) -> Sequence[str]:
        """Return the names of all hooks that are awaited: observers and checks."""
        hooks = vars(self._manager.hook).items()
        return tuple(
            sorted(
                name for name, caller in hooks if caller.spec and not name.startswith("relaykit_register_")
            )
        )

    def implementations(self, hook: str) -> Sequence[Implementation]:
        """Return the implementations of a hook in the order in which they are called."""
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return tuple(
            Implementation(found.plugin_name, found.function, tuple(found.argnames))
            for found in reversed(caller.get_hookimpls())
        )

    def switch_off(self, plugin: str, reason: str) -> None:
        """Record that a part of a plugin is called no more, and why."""
        found = self._plugins[plugin]
        found.reason = f"{found.reason}; {reason}" if found.state is PluginState.SWITCHED_OFF else reason
        found.state = PluginState.SWITCHED_OFF

    def unknown(self, kind: str, name: str, installed: Iterable[str]) -> UnknownImplementation:
        """Return the error for a name that the settings choose and nobody registers.

        It also names the plugins that are not loaded, because one of them may be the missing one.

        :param kind: ``storage``, ``workspace``, ``launcher`` …
        """
        absent = [plugin for plugin in self._plugins.values() if not plugin.hooks and plugin.reason]
        note = "".join(f"; plugin {plugin.name!r} is {plugin.state}: {plugin.reason}" for plugin in absent)
        return UnknownImplementation(kind, name, installed, note=note)

    # ------------------------------------------------------------ settings

    def settings_types(self) -> Mapping[str, type]:
        """Return the settings dataclass of each plugin that declares one."""
        if self._types is None:
            hook = "relaykit_register_settings"
            types: dict[str, type] = {}
            for found in self.implementations(hook):
                declared = self._call(found, hook, None)
                if not isinstance(declared, type) or not is_dataclass(declared):
                    raise PluginLoadError(f"{hook}: {declared!r} is not a dataclass", plugin=found.plugin)
                types[found.plugin] = declared
            self._types = types
        return self._types

    def settings_for(self, name: str) -> Any:
        """Return an instance of the plugin's own settings dataclass, or None if it declares none.

        :raises SettingsError: its table is wrong, or there is one and it takes none.
        """
        declared = self.settings_types().get(name, _NoSettings)
        try:
            settings: Any = self._settings.plugin(name, declared)
        except (TypeError, NameError) as error:
            raise PluginLoadError(f"its settings dataclass cannot be used: {error}", plugin=name) from error
        return None if declared is _NoSettings else settings

    def check_settings(self) -> None:
        """Read every loaded plugin's table, so that what is wrong with one is said at start.

        Tables that nobody will read, although they do not look so, are warned of.

        :raises SettingsError: one is wrong.
        """
        for plugin in self._plugins.values():
            if plugin.state in {PluginState.LOADED, PluginState.SWITCHED_OFF}:
                self.settings_for(plugin.name)
            elif plugin.state is PluginState.BLOCKED and self._settings.lists_of(plugin.name):
                logger.warning("plugin %r is blocked: %s", plugin.name, plugin.reason)

    # ------------------------------------------------------------ what they register

    def commands(self) -> Mapping[str, Provided[Command]]:
        """Return the subcommands that plugins add."""
        check = sequence_of(
            "a Command", instance_of(registration.Command, "run", "configure"), attrgetter("name")
        )
        return self._collect("commands", None, check)

    def checks(self, contexts: Contexts) -> Mapping[str, Provided[Check]]:
        """Return what ``relaykit doctor`` looks at besides."""
        check = sequence_of("a Check", instance_of(registration.Check, "look"), attrgetter("name"))
        return self._collect("checks", contexts, check)

    def agents(self, contexts: Contexts) -> Mapping[str, Provided[AgentSpec]]:
        """Return the agents that are known without settings."""
        from relaykit.agent.launcher import AgentSpec

        is_spec = instance_of(AgentSpec, texts=("name", "launcher"))

        def flaw_of(value: Any) -> str | None:
            if (flaw := is_spec(value)) is not None:
                return flaw
            command = value.command
            right = isinstance(command, tuple) and command and all(isinstance(word, str) for word in command)
            return None if right else f"its command is {command!r}, not a tuple of program and arguments"

        return self._collect("agents", contexts, mapping_of("an AgentSpec", flaw_of))

    def storages(self, contexts: Contexts) -> Mapping[str, Provided[StorageFactory]]:
        """Return the storages to choose from."""
        return self._collect("storages", contexts, mapping_of("a function that opens a storage", function))

    def workspaces(self, contexts: Contexts) -> Mapping[str, Provided[Workspace]]:
        """Return the workspaces to choose from."""
        from relaykit.agent.workspace import Workspace

        return self._collect("workspaces", contexts, mapping_of("a Workspace", like(Workspace)))

    def launchers(self, contexts: Contexts) -> Mapping[str, Provided[LauncherFactory]]:
        """Return the launchers to choose from."""
        return self._collect("launchers", contexts, mapping_of("a function that opens a launcher", function))

    def cleaners(self, contexts: Contexts) -> Mapping[str, Provided[Cleaner]]:
        """Return the cleaners to choose from."""
        from relaykit.session.cleaner import Cleaner, Phase

        is_cleaner = like(Cleaner)

        def flaw_of(value: Any) -> str | None:
            if (flaw := is_cleaner(value)) is not None:
                return flaw
            if not isinstance(value.name, str):
                return f"its name is {value.name!r}, not a text"
            return None if isinstance(value.phase, Phase) else f"its phase is {value.phase!r}, not a Phase"

        return self._collect("cleaners", contexts, sequence_of("a Cleaner", flaw_of, attrgetter("name")))

    def services(self, contexts: Contexts) -> Mapping[str, Provided[Service]]:
        """Return what lives as long as the relay."""
        check = sequence_of("a Service", instance_of(registration.Service, "open"), attrgetter("name"))
        return self._collect("services", contexts, check)

    def routes(self, contexts: Contexts) -> Mapping[str, Provided[Route]]:
        """Return what a gateway mounts, by path."""
        is_route = instance_of(registration.Route, "app", texts=("path",))

        def flaw_of(value: Any) -> str | None:
            flaw = is_route(value)
            if flaw is None and not value.path.startswith("/"):
                return f"its path is {value.path!r}, which does not begin with '/'"
            return flaw

        return self._collect("routes", contexts, sequence_of("a Route", flaw_of, attrgetter("path")))

    def messages(self, contexts: Contexts) -> Mapping[str, Provided[MessageType]]:
        """Return the types of message that plugins add to the relay protocol or take over."""
        check = sequence_of(
            "a MessageType", instance_of(registration.MessageType, "handle"), attrgetter("name")
        )
        return self._collect("messages", contexts, check)

    def meters(self, contexts: Contexts) -> Mapping[str, Provided[Meter]]:
        """Return the meters, by the plugin that provides each."""
        from relaykit.meter import Meter

        # A plugin provides one, without a name: it goes by its plugin's.
        def check(offered: Any) -> Mapping[str, Any]:
            demand(offered, "a Meter", like(Meter))
            return {"": offered}

        hook = "relaykit_register_meter"
        return {
            found.plugin: Provided(found.plugin, values[""])
            for found in self.implementations(hook)
            if (values := self._offered(found, hook, contexts, check))
        }

    def interests(self, contexts: Contexts) -> Mapping[str, Collection[str]]:
        """Return the ``on`` hooks that are to be called of the plugins that have said so, by plugin."""
        hook = "relaykit_register_interests"
        interests: dict[str, Collection[str]] = {}
        for found in self.implementations(hook):
            own = [name for name in self._plugins[found.plugin].hooks if name.startswith("relaykit_on_")]

            def flaw_of(name: Any, own: Sequence[str] = own) -> str | None:
                return None if name in own else ", ".join(own)

            check = sequence_of("one of its own `on` hooks", flaw_of, str)
            if (offered := self._offered(found, hook, contexts, check)) is not None:
                interests[found.plugin] = tuple(offered)
        return interests

    def _collect(
        self, what: str, contexts: Contexts | None, check: Callable[[Any], Mapping[str, Any]]
    ) -> Mapping[str, Provided[Any]]:
        hook = f"relaykit_register_{what}"
        collected: dict[str, Provided[Any]] = {}
        for found in self.implementations(hook):
            for name, value in (self._offered(found, hook, contexts, check) or {}).items():
                other = collected.setdefault(name, Provided(found.plugin, value))
                if other.plugin != found.plugin:
                    raise PluginLoadError(
                        f"{hook}: {name!r} is offered by plugin {other.plugin!r} too: disable one of them",
                        plugin=found.plugin,
                    )
        return collected

    def _offered(
        self,
        found: Implementation,
        hook: str,
        contexts: Contexts | None,
        check: Callable[[Any], Mapping[str, Any]],
    ) -> Mapping[str, Any] | None:
        offered = self._call(found, hook, contexts)
        if offered is None:
            return None
        try:
            return check(offered)
        except NotAskedFor as error:
            raise PluginLoadError(f"{hook}: {error}", plugin=found.plugin) from None

    def _call(self, found: Implementation, hook: str, contexts: Contexts | None) -> Any:
        arguments = [contexts(found.plugin) for _ in found.argnames] if contexts else []
        try:
            return found.function(*arguments)
        except (SettingsError, PluginError):
            raise  # they say already what is wrong and where
        except Exception as error:
            why = str(error) if isinstance(error, RelaykitError) else repr(error)
            raise PluginLoadError(f"{hook} failed: {why}", plugin=found.plugin) from error


@dataclass(frozen=True, slots=True)
class _NoSettings:
    """The table of a plugin that declares no settings."""
