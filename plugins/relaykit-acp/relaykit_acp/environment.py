"""What an agent's process gets of our environment: a short list, and never more."""

from __future__ import annotations

from collections.abc import Mapping

SESSION_VARIABLE = "RELAYKIT_SESSION"
NODE_VARIABLE = "RELAYKIT_NODE"

_NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TERM",
        "TMPDIR",
        "TZ",
        "USER",
    }
)
_PREFIXES = ("LC_", "XDG_")


def is_safe(name: str) -> bool:
    """Tell whether a variable is one that every agent gets: it is no secret."""
    return name in _NAMES or name.startswith(_PREFIXES)


def marker(session_id: str) -> str:
    """Return the environment entry by which every process of a session is known again."""
    return f"{SESSION_VARIABLE}={session_id}"


def child_environment(
    ours: Mapping[str, str], *, granted: Mapping[str, str], session_id: str, node: str
) -> dict[str, str]:
    """Return the environment of an agent: the safe list, what its settings grant, and the session's marker."""
    safe = {name: value for name, value in ours.items() if is_safe(name)}
    return {**safe, **granted, SESSION_VARIABLE: session_id, NODE_VARIABLE: node}
