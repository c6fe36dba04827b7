"""Empty directories for what has no session: profiles, fetches, questions for versions."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread


@asynccontextmanager
async def empty_directory(parent: Path | None) -> AsyncIterator[Path]:
    """Make a directory for as long as the block lasts.

    :param parent: made if it is missing; None: the system's temporary directory.
    """
    with anyio.CancelScope(shield=True):
        directory = await to_thread.run_sync(_make_directory, parent)
    try:
        yield directory
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


def _make_directory(parent: Path | None) -> Path:
    if parent is not None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="relaykit-", dir=parent))
