"""Settings (being written): relaykit.toml + RELAYKIT_A__B → frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any


def setting(default: Any = MISSING, *, help: str, secret: bool = False) -> Any:
    """Declare one key of a settings dataclass: its default (none: required), and what it means."""
    metadata = {"help": help, "secret": secret}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """``[relay]``."""

    storage: str = setting("memory", help="where sessions and transcripts are kept, by name")
    workspace: str = setting("worktree", help="where agents work: `worktree`, `directory` or `in_place`")
    cleaners: tuple[str, ...] = setting((), help="cleaners to run besides those of the launchers and the workspace")
    disabled: tuple[str, ...] = setting((), help="plugins that are not to be loaded")
    node: str = setting("local", help="this relay's name among several")
    state_dir: Path | None = setting(None, help="where relaykit keeps its state; by default the user's state directory")
    default_agent: str = setting("", help="the agent of a session that names none; by default the only one, or echo")
    default_project: str = setting("", help="the project of a session that names none; by default the only one")
    hook_timeout: float = setting(5.0, help="seconds that one implementation of a hook may take")
    cleaner_timeout: float = setting(30.0, help="seconds that one cleaner may take")
    max_queued_prompts: int = setting(16, help="prompts of a session that may wait for its running turn")
    tail_bytes: int = setting(8 * 1024 * 1024, help="bytes of each conversation that are kept in memory")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that was configured."""

    relay: RelaySettings
    projects: Mapping[str, ProjectSettings]
    agents: Mapping[str, AgentSettings]
    state_dir: Path
