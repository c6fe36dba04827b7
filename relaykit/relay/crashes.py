"""Crashes: an agent that crashes again and again is not started for ever."""

from __future__ import annotations

from relaykit.errors import SessionError
from relaykit.relay.rest import Rest

_MOST = 6
"""How often in a row an agent is started again: after 1, 2, 4, 8, 16 and 30 seconds."""


class NotResumed(SessionError):
    """A session whose agent has ended by itself does not go on."""


def check_crashes(rest: Rest) -> None:
    """Check that the agent, which has just ended, has not crashed too often.

    :raises NotResumed: it has, with no turn between that came to its end.
    """
    if rest.crashed and rest.crashes > _MOST:
        raise NotResumed(
            f"its agent crashed {rest.crashes} times in a row, and no turn came to its end between; "
            f"the last time: {rest.reason}"
        )
