"""Followed: how far the editor has come in one session."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(slots=True)
class Followed:
    """A place in a session, kept so that a new connection goes on where the last one broke.

    A place is the seq of an entry of the relay's journal. The relay sends one message for an entry, and
    several for a prompt: one for each block.

    :param cwd: as the editor gave it.
    :param seq: every message of every entry up to this one has come.
    :param blocks: so many blocks of the prompt behind it have come.
    :param epoch: of the journal; empty before the relay has said it.
    """

    session_id: str
    cwd: str = "/"
    seq: int = 0
    blocks: int = 0
    epoch: str = ""
    turns: set[str] = field(default_factory=set)
    """Turns of the editor's own prompts, of which it wants no echo."""
    held: list[bytes] = field(default_factory=list)
    """Blocks of a prompt of which the relay has not said yet whose it is."""
    _may_start_anew: bool = True
    _to_skip: int = 0
    _started: int = 0  # the newest prompt of which it is known whose it is
    _own_prompt: int = 0

    def take(self, seq: int, *, block: bool) -> bool:
        """Note a message of the agent or of a prompt, and tell whether the editor should have it.

        :param block: it is a block of a prompt.
        """
        if seq <= self.seq:
            if not self._may_start_anew:
                return False
            self._may_start_anew = False
            self._go_to(seq - 1)
        if not block:
            self._go_to(seq)
            return True
        if seq > self.seq + 1:
            self._go_to(seq - 1)
        if self._to_skip:
            self._to_skip -= 1
            return False
        self.blocks += 1
        return seq != self._own_prompt

    @property
    def replaying(self) -> bool:
        """Whether part of what the editor asked for has come."""
        return self.seq > 0 and not self._may_start_anew

    def reach(self, seq: int) -> None:
        """Note that everything up to here has come."""
        if seq > self.seq:
            self._go_to(seq)

    def is_doubtful(self, seq: int) -> bool:
        """Tell whether the prompt with this seq may be the editor's own: a new connection hears those too."""
        return bool(self.turns) and seq > self._started

    def turn_started(self, turn: str, seq: int) -> None:
        """Note whose the prompt with this seq is, and forget what is held of it if it is the editor's own."""
        self._started = seq
        if turn in self.turns:
            self._own_prompt = seq
            self.held.clear()

    def disconnected(self) -> None:
        """Note that the connection is lost: what is held comes again."""
        self.blocks -= len(self.held)
        self.held.clear()

    def start(self, seq: int) -> None:
        """Note that the editor asks for what lies behind `seq`, and means to get again what it had before."""
        self._may_start_anew = bool(self.seq or seq)
        self.reach(seq)

    def go_on(self) -> None:
        """Note that a new connection asks for what lies behind `seq`."""
        self._to_skip = self.blocks

    def resume(self) -> None:
        """Do as `go_on`, for a journal that may be another by now: the relay tells that from its start."""
        self.go_on()
        self._may_start_anew = True

    def went_on(self, epoch: str) -> None:
        """Note that the relay has told what had been said."""
        self._may_start_anew = False
        self.epoch = epoch

    def resume_params(self) -> str:
        """Return the params of the ``session/resume`` by which a new connection goes on: JSON."""
        place = {"after": self.seq, **({"epoch": self.epoch} if self.epoch else {})}
        params = {"sessionId": self.session_id, "cwd": self.cwd, "mcpServers": []}
        return json.dumps({**params, "_meta": {"relaykit": place}})

    def _go_to(self, seq: int) -> None:
        self.seq, self.blocks, self._to_skip = seq, 0, 0
