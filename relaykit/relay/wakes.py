"""Wakes: a session over which relays are killed is not woken for ever."""

from __future__ import annotations

import anyio

from relaykit.errors import SessionError
from relaykit.session.manager import Manager

_KEY = "relay"
_MOST = 5
_LONGEST_PAUSE = 30.0


class NotRecovered(SessionError):
    """A session that an earlier relay has left cannot go on."""


def pause_before(attempt: int) -> float:
    """Return the seconds to wait before an agent is started again: 1, 2, 4, … 30.

    :param attempt: 1 for the first.
    """
    return min(2.0 ** (attempt - 1), _LONGEST_PAUSE)


class Wakes:
    """Counts how often an agent was started again without anybody seeing the end of it.

    The count is recorded before the agent is started and taken back once a turn is over, the start has failed, or the
    agent was put to sleep: what is left of it was cut off, with the relay itself.
    """

    def __init__(self, manager: Manager, session_id: str) -> None:
        self._manager = manager
        self._session_id = session_id

    async def begin(self, *, failures: int) -> None:
        """Wait as long as is due after what went before (see `pause_before`; nothing at first), and count.

        :param failures: how often in a row the agent could not be started since, or has crashed.
        :raises NotRecovered: it was cut off too often.
        """
        session = await self._manager.get(self._session_id)
        resources = session.resources if session is not None else {}
        cut_off: int = resources.get(_KEY, {}).get("wakes", 0)
        if cut_off >= _MOST:
            raise NotRecovered(
                f"its agent was started again {cut_off} times, and each time the relay ended before a turn was over: "
                "look into the logs, then resume the session"
            )
        before = max(cut_off, failures)
        if before:
            await anyio.sleep(pause_before(before))
        await self._manager.record(self._session_id, _KEY, {"wakes": cut_off + 1})

    async def survived(self) -> None:
        """Take the count back, if there is one."""
        session = await self._manager.get(self._session_id)
        if session is not None and session.resources.get(_KEY, {}).get("wakes", 0):
            await self._manager.record(self._session_id, _KEY, {"wakes": 0})
