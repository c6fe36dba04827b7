"""Traffic: what goes to one session's agent and comes from it, counted."""

from __future__ import annotations

from collections.abc import Sequence

from relaykit.conversation.frame import Frame, Kind
from relaykit.meter import FIRST_UPDATE, MESSAGE_BYTES, MESSAGES, Meter
from relaykit.relay.turns import Turn


class Traffic:
    """Counts frames on their way. Called for each batch of a stream: it does little."""

    __slots__ = ("_meter",)

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def sent(self, frame: Frame) -> None:
        """Count a frame that goes to the agent."""
        self._meter.count(MESSAGES, direction="to_agent")
        self._meter.count(MESSAGE_BYTES, len(frame.body), direction="to_agent")

    def heard(self, frames: Sequence[Frame], turn: Turn | None, *, at: float) -> None:
        """Count frames that came from the agent.

        :param turn: the one that runs.
        :param at: on the clock's monotonic seconds.
        """
        self._meter.count(MESSAGES, len(frames), direction="from_agent")
        self._meter.count(MESSAGE_BYTES, sum([len(frame.body) for frame in frames]), direction="from_agent")
        if turn is not None and not turn.heard and any(frame.kind is Kind.UPDATE for frame in frames):
            turn.heard = True
            self._meter.observe(FIRST_UPDATE, at - turn.started)
