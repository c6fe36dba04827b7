"""A git worktree for each role, for relaykit; removal that loses no work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.agent import Workspace
    from relaykit.hooks.registration import PluginContext
    from relaykit.session import Cleaner

NAME = "worktree"


@hookimpl
def relaykit_register_settings() -> type:
    """Declare ``[plugins.worktree]``."""
    from relaykit_worktree.settings import WorktreeSettings

    return WorktreeSettings


@hookimpl
def relaykit_register_workspaces(context: PluginContext) -> Mapping[str, Workspace]:
    """Offer the workspace that makes a worktree for each role."""
    from relaykit_worktree.git import Git
    from relaykit_worktree.settings import WorktreeSettings
    from relaykit_worktree.workspace import WorktreeWorkspace

    settings = context.settings or WorktreeSettings()
    return {NAME: WorktreeWorkspace(context.projects, git=Git(settings.git_timeout), base=settings.base)}


@hookimpl
def relaykit_register_cleaners(context: PluginContext) -> Sequence[Cleaner]:
    """Offer the cleaner that removes a worktree where nothing is lost by it."""
    from relaykit_worktree.cleaner import WorktreeCleaner
    from relaykit_worktree.git import Git
    from relaykit_worktree.settings import WorktreeSettings

    settings = context.settings or WorktreeSettings()
    return [WorktreeCleaner(git=Git(settings.git_timeout), disposable=settings.disposable)]
