"""Choices: what of a session can be switched, its mode and its model, as it stands now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaykit_gateway.acp_client import Json
from relaykit_gateway.chat.transcript import objects

_GROUPS = {  # the older way of ACP: (group, current, options, id of an option, method, parameter)
    "mode": ("modes", "currentModeId", "availableModes", "id", "session/set_mode", "modeId"),
    "model": ("models", "currentModelId", "availableModels", "modelId", "session/set_model", "modelId"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that can be switched.

    :param options: the id and the name of each.
    :param method: the request that switches it, with `params`, and the option's id as the parameter `key`.
    """

    current: str
    options: Sequence[tuple[str, str]]
    method: str
    params: Json
    key: str

    def find(self, typed: str) -> str | None:
        """Return the id of the option that was typed, by number, id or name; None if it is none of them."""
        wanted = typed.strip().casefold()
        for number, (option_id, name) in enumerate(self.options, start=1):
            if wanted in {str(number), option_id.casefold(), name.casefold()}:
                return option_id
        return None


class Choices:
    """Keeps what the agent says of them.

    :param opened: the answer by which the session was opened.
    """

    def __init__(self, opened: Json) -> None:
        self._opened = dict(opened)

    def heard(self, update: Json) -> None:
        """Take note of an update of the agent's."""
        match update.get("sessionUpdate"):
            case "current_mode_update":
                self._set("mode", str(update.get("currentModeId")))
            case "config_option_update":
                self._opened["configOptions"] = update.get("configOptions")
            case _:
                pass

    def switched(self, category: str, option_id: str, result: Json) -> None:
        """Take note of the result by which the agent agreed to a switch."""
        if "configOptions" in result:
            self._opened["configOptions"] = result["configOptions"]
        else:
            self._set(category, option_id)

    def get(self, category: str) -> Choice | None:
        """Return the session's ``mode`` or ``model``; None if the agent has none that could be chosen."""
        return self._config_option(category) or self._group(category)

    def _config_option(self, category: str) -> Choice | None:
        for option in objects(self._opened.get("configOptions")):
            if option.get("category") == category and option.get("type") == "select":
                return Choice(
                    current=str(option.get("currentValue")),
                    options=[(str(value.get("value")), str(value.get("name"))) for value in _flat(option)],
                    method="session/set_config_option",
                    params={"configId": option.get("id")},
                    key="value",
                )
        return None

    def _group(self, category: str) -> Choice | None:
        name, current, options, option_id, method, key = _GROUPS[category]
        group = self._opened.get(name)
        if not isinstance(group, Mapping):
            return None
        return Choice(
            current=str(group.get(current)),
            options=[
                (str(each.get(option_id)), str(each.get("name"))) for each in objects(group.get(options))
            ],
            method=method,
            params={},
            key=key,
        )

    def _set(self, category: str, option_id: str) -> None:
        name, current, *_ = _GROUPS[category]
        group = self._opened.get(name)
        if isinstance(group, Mapping):
            self._opened[name] = {**group, current: option_id}


def _flat(option: Json) -> Sequence[Json]:
    """Return the values of a config option, those in groups too."""
    values: list[Json] = []
    for item in objects(option.get("options")):
        nested: Any = item.get("options")
        values += objects(nested) if nested is not None else [item]
    return values
