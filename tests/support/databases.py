"""Other processes that have a SQLite database open."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have another process hold SQLite's own lock, as a shell with a transaction does."""
    with child(_LOCK, path):
        yield


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script that prints ``ready`` and lives until its stdin ends; it is killed in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()
