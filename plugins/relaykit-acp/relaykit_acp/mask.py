"""Mask: takes the secrets that an agent was given out of what it says where people read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from relaykit.agent.launcher import AgentSpec
from relaykit_acp.environment import is_safe

_SHOWN = "***"
_LEAST = 8
"""What is shorter is left: it is no secret worth the name, and would be found in other words."""


class Mask:
    """Replaces secrets in texts by ``***``.

    Each value is looked for as a whole, as JSON has it, and in its words, so that ``Bearer`` in front of a token, or
    lines in a key, hide nothing. What an agent has encoded otherwise is not found.

    :param secrets: the values; of those, what is shorter than 8 characters is not replaced.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        wanted = {form for secret in secrets for form in _forms(secret) if len(form) >= _LEAST}
        longest_first = sorted(wanted, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if wanted else None

    def __call__(self, text: str) -> str:
        """Return the text without the secrets."""
        return self._pattern.sub(_SHOWN, text) if self._pattern is not None else text


NO_SECRETS = Mask(())


def mask_of(spec: AgentSpec) -> Mask:
    """Return what masks the values of an agent's variables, and of its MCP servers' variables and headers."""
    granted = [value for name, value in spec.env.items() if not is_safe(name)]
    servers = [
        value
        for server in spec.mcp_servers
        for key in ("env", "headers")
        for value in _values(server.get(key))
    ]
    return Mask([*granted, *servers])


def _values(given: Any) -> Iterator[str]:
    """Yield the values of ACP's lists of ``{name, value}``."""
    for item in given if isinstance(given, list | tuple) else ():
        value = item.get("value") if isinstance(item, Mapping) else None
        if isinstance(value, str):
            yield value


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield from secret.split()
