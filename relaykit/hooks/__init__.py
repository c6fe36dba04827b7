"""Hooks: the only folder that knows pluggy.

What a plugin's hooks are given, and what they return, is here by name, and imported when it is used: so listing the
commands of plugins stays fast, and a command that is found by its entry point needs no pluggy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from relaykit.errors import Refused
from relaykit.hooks.compatibility import API_VERSION

if TYPE_CHECKING:
    from relaykit.hooks.events import (
        AccessRefused,
        CallMade,
        CleanupFailed,
        ClientAttached,
        ClientDetached,
        EntriesRecorded,
        FellAsleep,
        ModeRequest,
        PermissionRequest,
        PromptRequest,
        QuestionAnswered,
        QuestionAsked,
        SessionRequest,
        Transition,
        TurnEnded,
        TurnStarted,
        WokeUp,
    )
    from relaykit.hooks.loader import load_plugins
    from relaykit.hooks.plugin_set import PluginSet
    from relaykit.hooks.registration import (
        ASGIApp,
        Check,
        Command,
        Finding,
        MessageClient,
        MessageType,
        PluginContext,
        Route,
        Service,
        Storage,
        StorageFactory,
        Surroundings,
        Verdict,
    )
    from relaykit.hooks.specs import hookimpl

__all__ = [
    "API_VERSION",
    "ASGIApp",
    "AccessRefused",
    "CallMade",
    "Check",
    "CleanupFailed",
    "ClientAttached",
    "ClientDetached",
    "Command",
    "EntriesRecorded",
    "FellAsleep",
    "Finding",
    "MessageClient",
    "MessageType",
    "ModeRequest",
    "PermissionRequest",
    "PluginContext",
    "PluginSet",
    "PromptRequest",
    "QuestionAnswered",
    "QuestionAsked",
    "Refused",
    "Route",
    "Service",
    "SessionRequest",
    "Storage",
    "StorageFactory",
    "Surroundings",
    "Transition",
    "TurnEnded",
    "TurnStarted",
    "Verdict",
    "WokeUp",
    "hookimpl",
    "load_plugins",
]

_HOMES = {
    "PluginSet": "plugin_set",
    "hookimpl": "specs",
    "load_plugins": "loader",
    **dict.fromkeys(
        (
            *("ASGIApp", "Check", "Command", "Finding", "MessageClient", "MessageType", "PluginContext"),
            *("Route", "Service", "Storage", "StorageFactory", "Surroundings", "Verdict"),
        ),
        "registration",
    ),
}
"""Where names come from, but for those of `relaykit.hooks.events`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'events')}"), name)
