"""open_database: finds, checks, makes or migrates the database, and connects to it."""

from __future__ import annotations

import logging
import os
import sqlite3
import struct
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote

from relaykit.errors import StoreError
from relaykit.ids import IdGenerator
from relaykit_sqlite import schema
from relaykit_sqlite.database import Database
from relaykit_sqlite.lock import DatabaseLock
from relaykit_sqlite.problems import explain, is_busy, refusal

logger = logging.getLogger(__name__)

OLDEST_SQLITE = (3, 33)  # UPDATE … FROM

_MAGIC = b"SQLite format 3\0"
_CHECKPOINT_PAGES = 8000  # 16 MB of log between checkpoints
_LOG_BYTES = 64 << 20  # what a log that had to grow is cut back to
_CACHE_KIB = 16 << 10


def open_database(
    path: Path, *, ids: IdGenerator, synchronous: str, busy_timeout: float, make_directory: bool
) -> Database:
    """Open the database, made or brought to this version if need be. Called in the thread that will use it.

    A file that is not one of relaykit, or of a newer one, is refused before anything is written to it.

    :param busy_timeout: in seconds.
    :param make_directory: make the directory, private to this user; otherwise it must be there.
    :raises StoreError: it cannot be opened, and why.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise refusal(f"Python's SQLite is {sqlite3.sqlite_version}, and {needed} is needed", path)
    with ExitStack() as undo:
        try:
            path = path.resolve()  # by whichever link it is named, it is locked under one name
            _check_directory(path.parent, make=make_directory)
            lock = DatabaseLock(path)
            undo.callback(lock.release)
            if not is_made(path):
                _make(path)
            connection = _connect(path, synchronous=synchronous, busy_timeout=busy_timeout)
            undo.callback(connection.close)
            _prepare(connection, path)
        except sqlite3.Error as error:
            what = explain(error, path)
            if is_busy(error):
                what += f"; waited {busy_timeout:g} s"
            raise StoreError(f"cannot open: {what}", plugin="sqlite") from error
        except OSError as error:
            raise refusal(f"{error.strerror or error} ({str(error.filename or path)!r})", path) from error
        undo.pop_all()
        return Database(connection, path, ids=ids, release=lock.release)


def _check_directory(directory: Path, *, make: bool) -> None:
    if make:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not directory.is_dir():
        raise StoreError(
            f"the directory {str(directory)!r} is not there: make it, or correct `path` in [plugins.sqlite]",
            plugin="sqlite",
        )


def is_made(path: Path) -> bool:
    """Tell whether there is a database that this version can open; False if there is none at all.

    Reads only. Its own file handle is closed before SQLite opens the file: closing it later would take
    SQLite's locks away (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refusal(f"it cannot be read: {error.strerror}", path) from error
    if not header:
        return False
    if not header.startswith(_MAGIC) or len(header) < 100:  # noqa: PLR2004 -- the header's length
        raise refusal(
            "it is no SQLite database: correct `path` in [plugins.sqlite], or move the file away", path
        )
    (version,), (application_id,) = struct.unpack_from(">i", header, 60), struct.unpack_from(">i", header, 68)
    if application_id != schema.APPLICATION_ID:
        raise refusal(
            "it is a SQLite database, but not one of relaykit: correct `path` in [plugins.sqlite]", path
        )
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:  # after a crash the log knows better than the header
        with closing(sqlite3.connect(read_only(path), uri=True, isolation_level=None)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(schema.MIGRATIONS):
        raise refusal(
            f"it is of a newer relaykit-sqlite (its version is {version}, this one knows {len(schema.MIGRATIONS)}): "
            "upgrade relaykit-sqlite, or restore a backup that was made before the upgrade",
            path,
        )
    return True


def read_only(path: Path) -> str:
    """Return the address of a connection that changes nothing, and never resets the log."""
    return f"file:{quote(str(path))}?mode=ro"


def _make(path: Path) -> None:
    """Make an empty database beside its place, and put it there when it is whole."""
    new = path.with_name(path.name + ".new")
    for left in (new, new.with_name(new.name + "-journal")):
        left.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        connection.execute("PRAGMA synchronous = FULL")
        schema.migrate(connection, schema.MIGRATIONS)
    new.replace(path)
    sync_file(path.parent)


def sync_file(path: Path) -> None:
    """Have the disk hold what is in a file, or the names that are in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path, *, synchronous: str, busy_timeout: float) -> sqlite3.Connection:
    if not os.access(path, os.W_OK):
        raise refusal("it may not be written: correct the permissions of the file", path)
    if path.stat().st_mode & 0o077:  # such as a backup that was restored
        path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, cached_statements=256)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise refusal(
                f"it cannot have a write-ahead log (its mode stays {mode!r}): use a local disk", path
            )
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    found = schema.migrate(connection, schema.MIGRATIONS)
    if found < len(schema.MIGRATIONS):
        logger.info("%s: migrated from version %d to %d", path, found, len(schema.MIGRATIONS))
        # The header's version too: an older relaykit is to refuse it by that alone.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    # A file that lost its end, or whose tables' first pages are damaged, is found now and not by the first session.
    for table in ("sessions", "journals", "entries"):
        connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()  # noqa: S608 -- names of our own
