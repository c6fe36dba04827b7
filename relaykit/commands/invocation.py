"""Invocation: what a command's ``run`` receives."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relaykit.hooks.plugin_set import PluginSet
    from relaykit.settings import Settings


class Invocation(argparse.Namespace):
    """The parsed arguments of one call of ``relaykit``, and how to come to its settings and plugins.

    :param config: ``--config``, or None.
    """

    config: str | None
    _settings: Settings | None = None

    def load_settings(self) -> Settings:
        """Return the settings, with ``--config``, this process's environment and working directory: read once.

        :raises SettingsError: something is wrong with them.
        """
        if self._settings is None:
            from relaykit.settings import load_settings

            config = Path(self.config) if self.config is not None else None
            self._settings = load_settings(config, environ=os.environ, cwd=Path.cwd())
        return self._settings

    def load_plugins(self, *, forgiving: bool = True) -> PluginSet:
        """Load the plugins.

        :param forgiving: record a broken plugin also if the settings name it, instead of raising.
        :raises SettingsError: something is wrong with the settings.
        :raises PluginError: a plugin cannot be loaded.
        """
        from relaykit.hooks.loader import load_plugins

        return load_plugins(self.load_settings(), forgiving=forgiving)
