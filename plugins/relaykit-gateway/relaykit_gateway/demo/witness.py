"""Witness: the demo's own plugin, which hears every transition; and the processes that sessions leave."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import anyio

from relaykit.hooks import hookimpl
from relaykit.session import Session, SessionState, Transition
from relaykit_gateway.demo.narrator import Narrator

_PROC = Path("/proc")
_LAUNCHER = "acp"


class Witness:
    """Prints every transition, and keeps what is needed to look for leftovers.

    :param path: the states that were reached, in order.
    :param session: as it was last.
    :param cleaned: it was heard that a session has ended.
    """

    def __init__(self, narrator: Narrator) -> None:
        self.path: list[SessionState] = []
        self.session: Session | None = None
        self.cleaned = anyio.Event()
        self._narrator = narrator

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        """Print it."""
        self.session = transition.after
        self.path.append(transition.after.state)
        self._narrator.transition(transition)
        if transition.after.state is SessionState.CLEANED:
            self.cleaned.set()

    def processes(self) -> Sequence[int]:
        """Return the living processes that belong to the session. Blocks for some milliseconds.

        Every process of a session has a marker in its environment. Where there is no ``/proc`` only the
        process that was recorded can be looked for.
        """
        recorded = self.session.resources.get(_LAUNCHER, {}) if self.session else {}
        if not recorded:
            return []
        if (_PROC / "self" / "environ").exists():
            return _marked(recorded["marker"].encode())
        pid = recorded.get("pid")
        return [pid] if pid is not None and _exists(pid) else []


def _marked(marker: bytes) -> Sequence[int]:
    return [
        int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal() and marker in _environ(entry)
    ]


def _environ(process: Path) -> Sequence[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return ()  # it has ended meanwhile, or is another user's


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
