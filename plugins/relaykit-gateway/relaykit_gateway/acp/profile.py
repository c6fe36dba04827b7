"""What ``initialize`` answers: the agent's own profile, with what the relay does itself."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from relaykit.session.model import Json

_SESSIONS: Json = {"list": {}, "resume": {}, "close": {}}
"""What the relay does with sessions, whatever the agent can."""


def describe(profile: Json, *, connection_id: str, role: str) -> Json:
    """Return the result of ``initialize``: everything of the agent's that the relay does not do in its place."""
    capabilities = {
        **_object(profile.get("agentCapabilities")),
        "loadSession": True,
        "sessionCapabilities": _SESSIONS,
    }
    ours = {"version": _version(), "connectionId": connection_id, "clientRole": role}
    meta = {**_object(profile.get("_meta")), "relaykit": ours}
    return {**profile, "agentCapabilities": capabilities, "_meta": meta}


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


@cache
def _version() -> str:
    return metadata.version("relaykit")
