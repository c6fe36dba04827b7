"""A git worktree for each role, for relaykit; removal that loses no work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.agent import Workspace
    from relaykit.hooks.registration import Check, Command, PluginContext
    from relaykit.session import Cleaner
    from relaykit_worktree.git import Git
    from relaykit_worktree.settings import WorktreeSettings

NAME = "worktree"


class WorktreePlugin:
    """One relay's worktrees: workspace and cleaner share a git, and take turns in a repository."""

    def __init__(self) -> None:
        self._git: Git | None = None

    @hookimpl
    def relaykit_register_settings(self) -> type:
        """Declare ``[plugins.worktree]``."""
        from relaykit_worktree.settings import WorktreeSettings

        return WorktreeSettings

    @hookimpl
    def relaykit_register_workspaces(self, context: PluginContext) -> Mapping[str, Workspace]:
        """Offer the workspace that makes a worktree for each role."""
        from relaykit_worktree.workspace import WorktreeWorkspace

        settings = _settings(context)
        workspace = WorktreeWorkspace(
            context.projects,
            git=self._shared_git(settings),
            settings=settings,
            state_dir=context.state_dir,
            environ=os.environ,
        )
        return {NAME: workspace}

    @hookimpl
    def relaykit_register_cleaners(self, context: PluginContext) -> Sequence[Cleaner]:
        """Offer the cleaner that removes a worktree where nothing is lost by it."""
        from relaykit_worktree.cleaner import WorktreeCleaner
        from relaykit_worktree.reasons import WORKTREES_KEPT

        settings = _settings(context)
        context.meter.expect(WORKTREES_KEPT)
        return [
            WorktreeCleaner(
                git=self._shared_git(settings), settings=settings, clock=context.clock, meter=context.meter
            )
        ]

    @hookimpl
    def relaykit_register_commands(self) -> Sequence[Command]:
        """Add ``relaykit worktrees``, ``diff``, ``commit``, ``push`` and ``apply``."""
        from relaykit_worktree.commands import COMMANDS

        return COMMANDS

    @hookimpl
    def relaykit_register_checks(self, context: PluginContext) -> Sequence[Check]:
        """Have ``relaykit doctor`` look at git, at repositories, and at worktrees that were kept."""
        from relaykit_worktree.checks import Checks

        settings = _settings(context)
        return Checks(context.projects, git=self._shared_git(settings), base=settings.base, name=NAME).all()

    def _shared_git(self, settings: WorktreeSettings) -> Git:
        from relaykit_worktree.git import Git

        if self._git is None:
            self._git = Git(settings.git_timeout)
        return self._git


def _settings(context: PluginContext) -> WorktreeSettings:
    from relaykit_worktree.settings import WorktreeSettings

    return context.settings or WorktreeSettings()
