"""Settings: relaykit.toml and RELAYKIT_SECTION__KEY, as frozen dataclasses. Each plugin declares its own."""

from relaykit.settings.declaration import Where, setting
from relaykit.settings.description import SettingRow, describe
from relaykit.settings.permissions import PermissionRule, RuleAction, ToolKind
from relaykit.settings.settings import (
    MASK,
    AgentSettings,
    ProjectSettings,
    RelaySettings,
    Settings,
    load_settings,
)

__all__ = [
    "MASK",
    "AgentSettings",
    "PermissionRule",
    "ProjectSettings",
    "RelaySettings",
    "RuleAction",
    "SettingRow",
    "Settings",
    "ToolKind",
    "Where",
    "describe",
    "load_settings",
    "setting",
]
