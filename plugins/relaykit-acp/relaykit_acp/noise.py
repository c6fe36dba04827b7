"""What an agent says that is no message: banners, stray prints, batches."""

from __future__ import annotations

import logging

from relaykit_acp.mask import Mask

logger = logging.getLogger(__name__)

_LINES = 100
_LINE_LENGTH = 200
_LOOKED_AT = 65536  # a secret at the edge is found whole; a line may have 32 MiB
_KEPT = 5


class Noise:
    """Skipped lines: logged, up to a limit, and the last of them kept.

    :param label: what log lines call the agent.
    :param mask: takes secrets out of them.
    """

    def __init__(self, label: str, mask: Mask) -> None:
        self._label = label
        self._mask = mask
        self._count = 0
        self._last: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self._last)

    def heard(self, line: bytes, why: str) -> None:
        """Take note of a line that is skipped."""
        self._count += 1
        text = self._mask(line[:_LOOKED_AT].decode(errors="replace"))[:_LINE_LENGTH].strip()
        if text.startswith(("{", "[")):
            text = f"{len(line)} bytes that were meant as a message"  # what is said in a session is in no log
        self._last = [*self._last[1 - _KEPT :], text]
        if self._count <= _LINES:
            logger.warning("%s: skipped a line (%s): %s", self._label, why, text)
        if self._count == _LINES:
            logger.warning("%s: no more skipped lines are logged", self._label)
