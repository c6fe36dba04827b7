"""What SQLite's errors mean to people: what was wrong, where, and what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from relaykit.errors import StoreError

NAME = "sqlite"

# By primary result code (https://www.sqlite.org/rescode.html): the low byte of the extended one.
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process holds its lock: end the program that has it open (`fuser` names it)",
    sqlite3.SQLITE_LOCKED: "another process holds its lock: end the program that has it open (`fuser` names it)",
    sqlite3.SQLITE_READONLY: "it may not be written: correct the permissions of the file and of its directory",
    sqlite3.SQLITE_PERM: "it may not be opened: correct the permissions of the file and of its directory",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: see that its directory is there and may be written",
    sqlite3.SQLITE_FULL: "the disk is full: make room; nothing that was acknowledged is lost",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write: see the system's log, its quotas and limits",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away and restore a backup, or try `sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: correct `path` in [plugins.sqlite], or move the file away",
    sqlite3.SQLITE_NOMEM: "there was not enough memory",
    sqlite3.SQLITE_TOOBIG: "a value is larger than SQLite takes (1 GB)",
}


def is_busy(error: BaseException) -> bool:
    """Tell whether another connection was in the way."""
    return _primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def explain(error: sqlite3.Error, path: Path) -> str:
    """Return for people what is wrong with the database at `path`."""
    advice = _ADVICE.get(_primary_code(error) or 0)
    name = getattr(error, "sqlite_errorname", None)
    said = f"{error} [{name}]" if name else str(error)
    return (
        f"the database {str(path)!r}: {advice} ({said})" if advice else f"the database {str(path)!r}: {said}"
    )


def refusal(why: str, path: Path) -> StoreError:
    """Return the error of a database that is not opened."""
    return StoreError(f"cannot open the database {str(path)!r}: {why}", plugin=NAME)


def _primary_code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
