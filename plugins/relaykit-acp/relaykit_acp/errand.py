"""Programs that are run for what they say, to their end: npx, and whatever tells its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from relaykit_acp.household import Household
from relaykit_acp.mask import NO_SECRETS, Mask
from relaykit_acp.process import start_process

_SAID = 64 * 1024
"""Bytes of its output that are kept: the first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an errand ended.

    :param exit_code: negative: the signal that ended it; None: it was out of time, and was ended.
    :param said: what it wrote to its standard output.
    :param stderr: the last lines of its standard error.
    """

    exit_code: int | None
    said: bytes
    stderr: str


async def run_errand(
    command: Sequence[str],
    household: Household,
    *,
    seconds: float,
    environment: Mapping[str, str],
    cwd: Path,
    agent: str,
    label: str,
    marker: str,
    mask: Mask = NO_SECRETS,
) -> Outcome:
    """Run a program to its end; failed, cancelled or out of time, it is ended with everything that it started.

    The parameters are those of `start_process`.

    :raises SpawnError: it cannot be started.
    """
    process = await start_process(
        command,
        household,
        environment=environment,
        cwd=cwd,
        agent=agent,
        label=label,
        marker=marker,
        mask=mask,
    )
    said = b""
    in_time = False
    try:
        with anyio.move_on_after(seconds):
            while chunk := await process.read():
                said += chunk[: _SAID - len(said)]
            await process.exited.wait()
            in_time = True
            await process.settle()
        return Outcome(exit_code=process.exit_code if in_time else None, said=said, stderr=process.stderr)
    finally:
        await process.aclose()
