"""What an agent says that is no message: banners, stray prints, batches."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_LINES = 100
_LINE_LENGTH = 200
_KEPT = 5


class Noise:
    """Skipped lines: logged, up to a limit, and the last of them kept.

    :param label: what log lines call the agent.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._count = 0
        self._last: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self._last)

    def heard(self, line: bytes, why: str) -> None:
        """Take note of a line that is skipped."""
        self._count += 1
        text = line[:_LINE_LENGTH].decode(errors="replace").strip()
        self._last = [*self._last[1 - _KEPT :], text]
        if self._count <= _LINES:
            logger.warning("%s: skipped a line (%s): %s", self._label, why, text)
        if self._count == _LINES:
            logger.warning("%s: no more skipped lines are logged", self._label)
