"""Settings: relaykit.toml and RELAYKIT_SECTION__KEY, as frozen dataclasses. Each plugin declares its own."""

from relaykit.settings.declaration import setting
from relaykit.settings.permissions import PermissionRule, RuleAction, ToolKind
from relaykit.settings.settings import (
    MASK,
    AgentSettings,
    ProjectSettings,
    RelaySettings,
    SettingRow,
    Settings,
    describe,
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
    "describe",
    "load_settings",
    "setting",
]
