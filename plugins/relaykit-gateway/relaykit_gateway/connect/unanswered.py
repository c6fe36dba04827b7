"""Unanswered: what the editor said and the relay has not settled, in order."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

INTERNAL_ERROR = -32603


@dataclass(slots=True)
class Said:
    """A request or a notification of the editor's.

    :param key: a request's id, as JSON; of notifications something that is none.
    :param text: as it goes out.
    :param cwd: what it names as the working directory.
    :param turn: of a prompt: by this id the relay knows it again.
    :param about: requests; as long as one of them is open, this notification is worth repeating.
    :param sent: it went out on this connection.
    :param repeated: it went out on an earlier one.
    """

    key: str
    text: bytes
    method: str = ""
    session_id: str = ""
    cwd: str = ""
    turn: str = ""
    about: set[str] = field(default_factory=set)
    sent: bool = False
    repeated: bool = False

    @property
    def is_request(self) -> bool:
        """Whether it gets an answer."""
        return not self.key.startswith("~")

    @property
    def opens(self) -> bool:
        """Whether it asks to follow a session that there is."""
        return self.method in {"session/load", "session/resume"}


class Unanswered:
    """Requests until they are answered, and notifications until they went out or have become pointless."""

    def __init__(self) -> None:
        self._said: dict[str, Said] = {}
        self._notifications = 0

    def next_key(self) -> str:
        """Return a key for a notification."""
        self._notifications += 1
        return f"~{self._notifications}"

    def add(self, said: Said) -> None:
        """Keep it."""
        self._said[said.key] = said

    def settle(self, key: str) -> Said | None:
        """Return the request with this id, and forget it with all that is about it alone; None if there is none."""
        said = self._said.pop(key, None)
        if said is not None:
            for other in [other for other in self._said.values() if key in other.about]:
                other.about.remove(key)
                if not other.about:
                    del self._said[other.key]
        return said

    def turn(self, turn: str) -> Said | None:
        """Return the prompt that began this turn."""
        return next((said for said in self._said.values() if said.turn == turn), None)

    def first(self, method: str) -> Said | None:
        """Return the first request of this method."""
        return next((said for said in self._said.values() if said.method == method), None)

    def prompts(self, session_id: str) -> set[str]:
        """Return the keys of a session's prompts."""
        return {said.key for said in self._said.values() if said.turn and said.session_id == session_id}

    def among(self, key: str) -> set[str]:
        """Return this key, if it is of a request that is open."""
        return {key} & self._said.keys()

    def opening(self) -> Collection[str]:
        """Return the sessions that the editor has asked for."""
        return {said.session_id for said in self._said.values() if said.opens}

    def to_send(self) -> Sequence[Said]:
        """Return what did not go out on this connection, and keep of it what may have to go out once more."""
        waiting = [said for said in self._said.values() if not said.sent]
        for said in waiting:
            if not said.is_request and not said.about:
                del self._said[said.key]
        return waiting

    def sent_none(self) -> None:
        """Note that the connection is lost: everything has to go out once more."""
        for said in self._said.values():
            said.repeated |= said.sent
            said.sent = False

    def give_up(self, why: str, *, sent_only: bool = False) -> Sequence[bytes]:
        """Return an error as the answer to each request, and forget them.

        :param sent_only: only those that went out on this connection.
        """
        given_up = [said for said in self._said.values() if said.is_request and (said.sent or not sent_only)]
        for said in given_up:
            self.settle(said.key)
        return [error_answer(said.key, INTERNAL_ERROR, why) for said in given_up]


def key_of(raw_id: Any) -> str:
    """Return an id as JSON: ``1`` and ``"1"`` are two."""
    return str(raw_id) if type(raw_id) is int else json.dumps(raw_id)  # a bool is no int here


def error_answer(raw_id: str, code: int, why: str) -> bytes:
    """Return an error answer.

    :param raw_id: JSON.
    """
    return f'{{"jsonrpc":"2.0","id":{raw_id},"error":{{"code":{code},"message":{json.dumps(why)}}}}}'.encode()
