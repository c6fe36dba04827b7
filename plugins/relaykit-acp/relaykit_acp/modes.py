"""Modes: what an agent said of its session when it opened it, kept as it stands now."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from relaykit.session.model import Json

# A look for this costs next to nothing, and few updates have it: the others are not parsed.
_SIGN = b'_update"'

_PARAMS: Mapping[str, tuple[str, str, str]] = {
    "session/set_mode": ("modeId", "modes", "currentModeId"),
    "session/set_model": ("modelId", "models", "currentModelId"),
}


class Modes:
    """The answer to ``session/new`` less its id, with ``modes``, ``models`` and ``configOptions`` as set since.

    An agent tells of changes in two ways: in an update, when it changed something itself, and by an answer
    to who asked for the change.

    :param opened: what the agent said.
    """

    def __init__(self, opened: Json = MappingProxyType({})) -> None:
        self.opened: Json = opened

    def heard_update(self, body: bytes) -> None:
        """Take note of the params of a ``session/update``."""
        if _SIGN not in body:
            return
        update = _decode(body).get("update")
        if not isinstance(update, dict):
            return
        match update.get("sessionUpdate"):
            case "current_mode_update":
                self._set("modes", "currentModeId", update.get("currentModeId"))
            case "config_option_update":
                self._set_options(update.get("configOptions"))

    def heard_answer(self, method: str, params: bytes, result: bytes) -> None:
        """Take note of what somebody asked for, and of the result with which the agent agreed."""
        if method in _PARAMS:
            asked, group, current = _PARAMS[method]
            self._set(group, current, _decode(params).get(asked))
        elif method == "session/set_config_option":
            self._set_options(_decode(result).get("configOptions"))

    def _set(self, group: str, current: str, value: object) -> None:
        known = self.opened.get(group)
        if isinstance(known, dict) and isinstance(value, str):
            self.opened = {**self.opened, group: {**known, current: value}}

    def _set_options(self, options: object) -> None:
        if isinstance(options, list):
            self.opened = {**self.opened, "configOptions": options}


def _decode(body: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body or b"{}")
    except (msgspec.MsgspecError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
