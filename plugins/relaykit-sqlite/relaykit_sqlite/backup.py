"""back_up: a copy of the database, also while a relay is at work on it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from relaykit.errors import StoreError
from relaykit_sqlite.opening import is_made, read_only, sync_file
from relaykit_sqlite.problems import NAME, explain

_STEP_PAGES = 500  # 1 MB between two looks at Ctrl-C


def back_up(database: Path, target: Path, *, force: bool = False, wait: float = 5.0) -> int:
    """Copy the database to `target` as it is at one moment, check the copy, and return its size in bytes.

    The copy is a database of one file, which only its owner can read. It appears under its name once it is whole
    and checked. What is committed meanwhile is not in it, and does not wait for it: the copy is read within one
    read transaction, by a connection that can neither write nor reset the log. (Until it ends, the log grows.)

    Not for the process in which the relay runs: it looks into the file by itself, which takes SQLite's locks away.

    :param force: replace a file that is there.
    :param wait: seconds to wait for a lock.
    :raises StoreError: there is no database, the target is there, or the copy failed: nothing is left of it then.
    """
    database = database.resolve()
    _check_target(database, target, force=force)
    if not is_made(database):
        raise StoreError(f"there is no database {str(database)!r} to copy", plugin=NAME)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _copy(database, partial, wait=wait)
            size = partial.stat().st_size
            _check_target(database, target, force=force)  # somebody may have made it meanwhile
            partial.replace(target)
        except BaseException:
            for left in (partial, partial.with_name(partial.name + "-journal")):
                left.unlink(missing_ok=True)
            raise
        sync_file(target.parent)
    except OSError as error:
        raise StoreError(f"cannot copy to {str(target)!r}: {error.strerror or error}", plugin=NAME) from error
    return size


def _check_target(database: Path, target: Path, *, force: bool) -> None:
    own = {database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", ".lock")}
    if target.resolve() in own:
        raise StoreError(f"{str(target)!r} is the database itself: copy it elsewhere", plugin=NAME)
    if target.is_dir():
        raise StoreError(f"{str(target)!r} is a directory: name a file in it", plugin=NAME)
    if not force and os.path.lexists(target):
        raise StoreError(
            f"{str(target)!r} is there already: choose another name, or say --force", plugin=NAME
        )


def _copy(database: Path, partial: Path, *, wait: float) -> None:
    at = database
    try:
        with (
            closing(
                sqlite3.connect(read_only(database), uri=True, timeout=wait, isolation_level=None)
            ) as source,
            closing(sqlite3.connect(partial, isolation_level=None)) as copy,
        ):
            # Without a transaction of its own the copy would begin anew whenever the relay commits, for ever.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            at = partial
            source.backup(copy, pages=_STEP_PAGES)
            source.execute("ROLLBACK")
            copy.execute("PRAGMA synchronous = FULL")
            copy.execute("PRAGMA journal_mode = DELETE").fetchone()  # one file, with no log beside it
            found = [row[0] for row in copy.execute("PRAGMA integrity_check(10)")]
    except sqlite3.Error as error:
        raise StoreError(f"cannot copy {str(database)!r}: {explain(error, at)}", plugin=NAME) from error
    if found != ["ok"]:
        raise StoreError(
            f"the database {str(database)!r} is damaged, and so was its copy, which was thrown away: "
            + "; ".join(found),
            plugin=NAME,
        )
    sync_file(partial)
