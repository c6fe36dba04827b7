"""Settings: relaykit.toml and RELAYKIT_SECTION__KEY, as frozen dataclasses. Each plugin declares its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from relaykit.errors import SettingsError, did_you_mean
from relaykit.settings.declaration import setting
from relaykit.settings.lists import LISTS, place_in
from relaykit.settings.permissions import PermissionRule
from relaykit.settings.sources import Sources, fold, read_sources, user_directory

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

MASK = "***"

_FROM_ZERO = (
    "max_queued_prompts",
    "permission_timeout",
    "max_sessions",
    "max_sessions_per_owner",
    "max_duration",
    "grace_period",
    "idle_timeout",
    "retention_days",
)


def _without_values(servers: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return MCP servers without the values of the variables and headers that they are given."""
    return [
        {key: _masked(value) if key in {"env", "headers"} else value for key, value in server.items()}
        for server in servers
    ]


def _masked(value: object) -> object:
    """Return what ACP has as a list of ``{name, value}``, with the names alone; anything else as a whole."""
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return [{key: item[key] if key == "name" else MASK for key in item} for item in value]
    return MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """``[relay]``."""

    storage: str = setting(
        "",
        help="where sessions and transcripts are kept, by name; by default `sqlite` in `relaykit serve` where it is "
        "installed, else `memory`, which forgets them when the relay ends",
    )
    workspace: str = setting("worktree", help="where agents work: `worktree`, `directory` or `in_place`")
    cleaners: tuple[str, ...] = setting(
        (), help="cleaners to run besides those of the launchers and the workspace"
    )
    disabled: tuple[str, ...] = setting((), help="plugins that are not to be loaded")
    node: str = setting("local", help="this relay's name among several")
    state_dir: Path | None = setting(
        None, help="where relaykit keeps its state; by default the user's state directory"
    )
    default_agent: str = setting(
        "", help="the agent of a session that names none; by default the only one, or the first that is found"
    )
    default_project: str = setting(
        "", help="the project of a session that names none; by default the only one"
    )
    hook_timeout: float = setting(5.0, help="seconds that one implementation of a hook may take")
    cleaner_timeout: float = setting(30.0, help="seconds that one cleaner may take")
    when_busy: str = setting(
        "queue",
        help='what becomes of a prompt while a turn runs: `"queue"`, it waits in order, and every client sees the '
        'queue; or `"refuse"`',
    )
    max_queued_prompts: int = setting(16, help="prompts of a session that may wait for its running turn")
    permission_timeout: float = setting(
        0.0,
        help="seconds after which a question that nobody has answered, whoever is there, is answered with no; "
        "0 for never",
    )
    max_sessions: int = setting(
        0, help="sessions that may live at once, those that sleep too; one more is refused. 0 for any number"
    )
    max_sessions_per_owner: int = setting(0, help="the same, of each owner; 0 for any number")
    max_duration: float = setting(
        0.0,
        help="seconds of a session's life, restarts and sleep counted in, after which it is ended, once no turn runs "
        "and no question is open; being resumed begins another. 0 for never",
    )
    grace_period: float = setting(
        0.0,
        help="seconds without a client after which a session whose agent could not go on later is ended, "
        "once no turn runs and no question is open; 0 for never",
    )
    idle_timeout: float = setting(
        1800.0,
        help="seconds without a client, a turn and a question after which an agent that can go on later is "
        "stopped until somebody comes; 0 for never",
    )
    end_idle: bool = setting(
        False, help="end an idle session whose agent could not go on later, instead of keeping it"
    )
    on_shutdown: str = setting(
        "sleep",
        help='what becomes of sessions whose agents can go on later when the relay stops: they `"sleep"`, or `"end"`',
    )
    on_crash: str = setting(
        "resume",
        help='what becomes of a session whose agent ends by itself: `"resume"`, it is started again if it can go on; '
        'or `"end"`',
    )
    retention_days: float = setting(30.0, help="days for which the transcripts of ended sessions are kept")
    tail_bytes: int = setting(8 * 1024 * 1024, help="bytes of each conversation that are kept in memory")

    def __post_init__(self) -> None:
        _check_name(self.node, "node")
        for name in ("hook_timeout", "cleaner_timeout", "tail_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
        for name in _FROM_ZERO:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        if self.when_busy not in {"queue", "refuse"}:
            raise ValueError(f"when_busy is `queue` or `refuse`, not {self.when_busy!r}")
        if self.on_shutdown not in {"sleep", "end"}:
            raise ValueError(f"on_shutdown is `sleep` or `end`, not {self.on_shutdown!r}")
        if self.on_crash not in {"resume", "end"}:
            raise ValueError(f"on_crash is `resume` or `end`, not {self.on_crash!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSettings:
    """``[projects.NAME]``."""

    path: Path = setting(help="the project's directory; usually a git checkout")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """``[agents.NAME]``."""

    command: tuple[str, ...] = setting(help="program and arguments")
    env: tuple[str, ...] = setting((), help="names of environment variables to pass on")
    launcher: str = setting("acp", help="what starts it")
    login: str | None = setting(None, help="the command that logs it in, for messages")
    mcp_servers: tuple[Mapping[str, Any], ...] = setting(
        (),
        help="MCP servers for its sessions, each a table as in ACP's `session/new`",
        shown=_without_values,
    )

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError("command names no program")
        if wrong := [name for name in self.env if _VARIABLE.fullmatch(name) is None]:
            # Somebody who writes NAME=value here has written a secret: only the name is repeated.
            raise ValueError(
                f"env lists names of variables, without values: {wrong[0].partition('=')[0]!r} is not one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that was configured.

    :param state_dir: absolute; ``[relay] state_dir``, or relaykit's part of the user's state directory.
    :param permissions: in their order: the first that matches decides.
    :param sources: what was said, for plugins' own tables and for `describe`.
    """

    relay: RelaySettings
    projects: Mapping[str, ProjectSettings]
    agents: Mapping[str, AgentSettings]
    state_dir: Path
    permissions: Sequence[PermissionRule] = ()
    sources: Sources = field(default_factory=Sources, repr=False)

    def plugin(self, name: str, cls: type[T]) -> T:
        """Return ``[plugins.NAME]`` as an instance of the plugin's own frozen dataclass.

        :raises SettingsError: a key is unknown, missing or of the wrong kind, or ``__post_init__`` raised
            ValueError.
        :raises TypeError: the dataclass has a field of a type that settings cannot hold.
        """
        return self.sources.read(cls, ("plugins", name))

    def with_plugin(self, name: str, values: Mapping[str, object], *, origin: str) -> Settings:
        """Return settings in which these values of ``[plugins.NAME]`` go before the file and the environment.

        :param values: by key, as TOML would have them.
        :param origin: who says so, for errors and `describe`: ``the command line``.
        """
        return replace(self, sources=self.sources.overriding(("plugins", name), values, origin))

    def names_plugin(self, name: str) -> bool:
        """Tell whether there is a ``[plugins.NAME]`` table, or a variable that sets a key of it."""
        return self.sources.names_table(("plugins", name))

    def lists_of(self, plugin: str) -> Sequence[str]:
        """Return the lists at the top of the file that are the plugin's, and have tables: ``hooks``."""
        owned = [name for name, table in LISTS.items() if table == ("plugins", plugin)]
        return [name for name in owned if self.sources.tables.get(name)]

    def check_rules(self, key: str, known: Iterable[str]) -> None:
        """Check what rules of ``[[permissions]]`` name: one that names nothing that there is would never match.

        :param key: ``agent`` or ``project``.
        :raises SettingsError: there is no such agent, or project.
        """
        known = tuple(sorted(known))
        for number, rule in enumerate(self.permissions, 1):
            name = getattr(rule, key)
            if name is not None and name not in known:
                place = place_in("permissions", number)
                raise SettingsError(
                    f"there is no {key} {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}",
                    key=f"{place}.{key}",
                    origin=self.sources.origin_of_table((place,)),
                )

    def check_plugins(self, installed: Iterable[str]) -> None:
        """Check that every plugin that the settings name is installed.

        :raises SettingsError: one is not; it lists those that are.
        """
        known = tuple(sorted(installed))
        folded = {fold(name) for name in known}
        listed = ", ".join(known) or "none"
        for name in self.sources.names("plugins"):
            if name not in known and (fold(name) not in folded or self.sources.in_file(("plugins", name))):
                raise SettingsError(
                    f"the plugin {name!r} is not installed{did_you_mean(name, known)}; installed: {listed}",
                    key=f"plugins.{name}",
                    origin=self.sources.origin_of_table(("plugins", name)),
                )
        for name, table in LISTS.items():
            if table and table[-1] not in known and name in self.sources.tables:
                raise SettingsError(
                    f"it is for the plugin {table[-1]!r}, which is not installed: pip install relaykit-{table[-1]}",
                    key=name,
                    origin=str(self.sources.file),
                )
        for name in self.relay.disabled:
            if name not in known:
                given = self.sources.find(("relay",), "disabled")
                raise SettingsError(
                    f"the plugin {name!r} is not installed{did_you_mean(name, known)}; installed: {listed}",
                    key="relay.disabled",
                    origin=given.origin if given else "",
                )


def load_settings(config: Path | None = None, *, environ: Mapping[str, str], cwd: Path) -> Settings:
    """Read the settings: the defaults, then the file, then the environment.

    The file is `config`, else ``RELAYKIT_CONFIG``, else the first of ``relaykit.toml`` in `cwd` and in the
    user's configuration directory that is there. None at all is fine. Tables of plugins are checked once the
    plugins are known, by `Settings.plugin` and `Settings.check_plugins`.

    :param cwd: absolute; relative paths in the environment begin here, those of the file in its directory.
    :raises SettingsError: it names the key, and the file or the variable.
    """
    sources = read_sources(config, environ=environ, cwd=cwd)
    sources.check_sections()
    relay = sources.read(RelaySettings, ("relay",))
    state_dir = relay.state_dir or user_directory(
        "XDG_STATE_HOME", ".local/state", environ=environ, home=sources.home
    )
    projects = _read_all(sources, "projects", ProjectSettings)
    settings = Settings(
        relay=relay,
        projects=projects or MappingProxyType({"default": ProjectSettings(path=cwd)}),
        agents=_read_all(sources, "agents", AgentSettings),
        state_dir=state_dir,
        permissions=tuple(sources.read_list(PermissionRule, ("permissions",))),
        sources=sources,
    )
    settings.check_rules("project", settings.projects)
    return settings


def _read_all(sources: Sources, section: str, cls: type[T]) -> Mapping[str, T]:
    tables: dict[str, T] = {}
    for name in sources.names(section):
        try:
            _check_name(name, "the name")
        except ValueError as error:
            origin = sources.origin_of_table((section, name))
            raise SettingsError(str(error), key=f"{section}.{name}", origin=origin) from None
        tables[name] = sources.read(cls, (section, name))
    return MappingProxyType(tables)


def _check_name(name: str, what: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"{what} {name!r} is not valid: use 1 to 64 of a-z, A-Z, 0-9, '_' and '-', "
            "beginning with a letter or a digit"
        )
