"""Recordings of what agents and clients said, and the comparison of a message with what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

GOLDEN = Path(__file__).parents[1] / "end_to_end" / "golden"

NAMES = ("claude", "opencode", "qwen", "python_sdk", "typescript_sdk")


class _Params(msgspec.Struct):
    prompt: list[msgspec.Raw]


class _Prompt(msgspec.Struct):
    params: _Params


@dataclass(frozen=True, slots=True)
class Spoken:
    """One line of a recording, as it was said."""

    by_agent: bool
    line: str

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC message."""
        message: dict[str, Any] = json.loads(self.line)
        return message

    @property
    def method(self) -> str:
        """The method; empty: it answers."""
        method: str = self.message.get("method", "")
        return method


def recording_of(name: str) -> Path:
    """Return the file of a recording."""
    return GOLDEN / f"{name}.jsonl"


def load(name: str) -> list[Spoken]:
    """Return a recording."""
    lines = map(json.loads, recording_of(name).read_text().splitlines())
    return [Spoken(line["direction"] == "agent", line["line"]) for line in lines]


def assert_same(recorded: str, came: str) -> None:
    """Check that a message is what was recorded, but for what is the relay's own.

    That is the session id, the id of an agent's request, and ``_meta.relaykit``. All else is equal as JSON, and
    the members of params, result and error are equal byte for byte.
    """
    assert_same_json(recorded, came)
    for part in ("params", "result", "error"):
        assert _raw_members(came, part) == _raw_members(recorded, part)


def assert_same_json(recorded: str, came: str) -> None:
    """As `assert_same`, less the bytes: for messages that the relay makes of what was said."""
    assert _less_ours(came) == _less_ours(recorded)


def raw_blocks(line: str) -> list[str]:
    """Return the blocks of a recorded prompt, byte for byte."""
    return [bytes(block).decode() for block in msgspec.json.decode(line, type=_Prompt).params.prompt]


def seq_of(came: str) -> int:
    """Return the number under which the relay holds a message."""
    message = json.loads(came)
    seq: int = message.get("params", message.get("result"))["_meta"]["relaykit"]["seq"]
    return seq


def _less_ours(line: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(line)
    if "method" in message:
        message.pop("id", None)
    for part in ("params", "result"):
        members = message.get(part)
        if isinstance(members, dict):
            members.pop("sessionId", None)
            meta = members.get("_meta")
            if isinstance(meta, dict):
                meta.pop("relaykit", None)
                if not meta:  # the relay's alone, or as empty as none
                    del members["_meta"]
    return message


def _raw_members(line: str, part: str) -> dict[str, bytes]:
    raw = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).get(part)
    if raw is None or not bytes(raw).startswith(b"{"):
        return {}
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {key: bytes(value) for key, value in members.items() if key not in {"sessionId", "_meta"}}
