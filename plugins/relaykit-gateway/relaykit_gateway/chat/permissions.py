"""Requests for permission: which answers there are, and how they are typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relaykit_gateway.acp_client import Json
from relaykit_gateway.chat.transcript import objects

ALLOW = ("allow_once", "allow_always")
REJECT = ("reject_once", "reject_always")

_LETTERS = {"y": "allow_once", "n": "reject_once"}


def options_of(params: Json) -> Sequence[Json]:
    """Return the answers that a ``session/request_permission`` offers."""
    return objects(params.get("options"))


def keys_of(options: Sequence[Json]) -> Mapping[str, Json]:
    """Return the option of each key: numbers, and ``y`` and ``n`` where it is clear which they mean."""
    keys = {str(number): option for number, option in enumerate(options, start=1)}
    for letter, kind in _LETTERS.items():
        meant = [option for option in options if option.get("kind") == kind]
        if len(meant) == 1:
            keys[letter] = meant[0]
    return keys


def choose(options: Sequence[Json], line: str) -> Json | None:
    """Return the option that was typed, by key, id or name; None if it is none of them."""
    typed = line.strip().casefold()
    names = {
        str(option.get(key)).casefold(): option
        for key in ("name", "optionId")
        for option in reversed(options)
    }
    return {**names, **keys_of(options)}.get(typed)


def in_words(params: Json, answer: Json) -> str:
    """Return an answer, to a question of any method, as a person would say it."""
    outcome = answer.get("outcome")
    outcome = outcome if isinstance(outcome, Mapping) else {}
    for option in options_of(params):
        if option.get("optionId") == outcome.get("optionId"):
            return str(option.get("name"))
    return str(outcome.get("outcome") or answer.get("action") or "answered")


def pick(options: Sequence[Json], kinds: Sequence[str]) -> Json | None:
    """Return the first option of the first kind that is offered at all."""
    return next((option for kind in kinds for option in options if option.get("kind") == kind), None)
