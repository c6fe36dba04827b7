"""What an agent's process gets of our environment: a short list, and never more."""

from __future__ import annotations

from collections.abc import Mapping

from relaykit.process import safe_environment

SESSION_VARIABLE = "RELAYKIT_SESSION"
NODE_VARIABLE = "RELAYKIT_NODE"


def marker(session_id: str) -> str:
    """Return the environment entry by which every process of a session is known again."""
    return f"{SESSION_VARIABLE}={session_id}"


def child_environment(
    ours: Mapping[str, str], *, granted: Mapping[str, str], session_id: str, node: str
) -> dict[str, str]:
    """Return the environment of an agent: the safe list, what its settings grant, and the session's marker."""
    return {**safe_environment(ours), **granted, SESSION_VARIABLE: session_id, NODE_VARIABLE: node}
