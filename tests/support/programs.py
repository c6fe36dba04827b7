"""relaykit as people run it: as programs of their own, in an environment of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SECONDS = 30.0
"""The deadline of every wait: far more than anything takes."""

RELAYKIT = (sys.executable, "-m", "relaykit")
_IN_TERMINAL = (
    # A terminal turns Ctrl-C into a signal for the session whose controlling terminal it is.
    sys.executable,
    "-c",
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])",
)
_MARKER = (
    "XDG_RELAYKIT_TEST"  # agents get variables of this prefix too, so that it finds whatever a test has left
)


class Place:
    """A home, a working directory and a temporary directory, and what runs there.

    :param root: an existing directory.
    """

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.work = root / "work"
        self.temporary = root / "tmp"
        for directory in (self.home, self.work, self.temporary):
            directory.mkdir()
        self._mark = str(root)  # pytest gives no two tests one directory

    def environment(self, **variables: str) -> dict[str, str]:
        """Return an environment without anything of the person's who runs the tests, but for PATH."""
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.temporary),
            "LANG": "C.UTF-8",
            "RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS": "false",  # whatever is installed here
            _MARKER: self._mark,
            **variables,
        }

    def run(
        self, *arguments: str, typed: str = "", seconds: float = SECONDS, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``relaykit`` to its end, which must come in time."""
        return subprocess.run(
            [*RELAYKIT, *arguments],
            input=typed,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=self.work,
            env=self.environment(**variables),
        )

    def processes(self) -> list[int]:
        """Return the living processes that were started here, and by those: all, whatever they became."""
        wanted = f"{_MARKER}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if wanted in environment.split(b"\0"):
                    found.append(int(entry.name))
        return found


class Program:
    """``relaykit`` as it runs: what it says can be waited for, each wait with a deadline.

    :param terminal: the descriptor that is its terminal, instead of pipes.
    :param stdin: what it reads, instead of what is typed.
    """

    def __init__(
        self,
        place: Place,
        *arguments: str,
        variables: Mapping[str, str],
        terminal: int | None = None,
        stdin: IO[str] | None = None,
    ) -> None:
        self.said = ""
        self._position = 0
        self._heard = threading.Condition()
        self._ended = False
        pipe = subprocess.PIPE if terminal is None else terminal
        self.process = subprocess.Popen(
            [*(() if terminal is None else _IN_TERMINAL), *RELAYKIT, *arguments],
            stdin=stdin or pipe,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            cwd=place.work,
            env=place.environment(**variables),
            start_new_session=True,
        )
        self._typing: int | None = None
        self._listening: int | None = None
        if self.process.stdin is not None:
            self._typing = self.process.stdin.fileno()
        if self.process.stdout is not None:
            self._listening = self.process.stdout.fileno()

    def follow(self, listening: int | None = None, typing: int | None = None) -> None:
        """Listen, from a thread, to what it says: on its pipe, or on the other end of its terminal."""
        self._listening = self._listening if listening is None else listening
        self._typing = self._typing if typing is None else typing
        threading.Thread(target=self._listen, daemon=True).start()

    def type(self, text: str) -> None:
        """Type something."""
        assert self._typing is not None
        os.write(self._typing, text.encode())

    def end_input(self) -> None:
        """Have its input end."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def expect(self, pattern: str, *, seconds: float = SECONDS) -> re.Match[str]:
        """Wait until it says what matches, behind what was expected before."""
        deadline = time.monotonic() + seconds
        with self._heard:
            while True:
                found = re.compile(pattern).search(self.said, self._position)
                if found is not None:
                    self._position = found.end()
                    return found
                left = deadline - time.monotonic()
                assert not self._ended, f"{pattern!r} did not come: {self.said}"
                assert left > 0, f"{pattern!r} does not come behind {self._position} in: {self.said}"
                self._heard.wait(left)

    def exit_code(self, *, seconds: float = SECONDS) -> int:
        """Wait until it has ended, and everything that it said was heard; return its exit code."""
        code = self.process.wait(seconds)
        with self._heard:
            assert self._heard.wait_for(lambda: self._ended, seconds), "it ended, its output does not"
        return code

    def _listen(self) -> None:
        assert self._listening is not None
        chunk = b"-"
        while chunk:
            try:
                chunk = os.read(self._listening, 65536)
            except OSError:  # EIO: a terminal that nobody holds any more
                chunk = b""
            with self._heard:
                self.said += chunk.decode(errors="replace")
                self._ended = not chunk
                self._heard.notify_all()


@contextmanager
def started(
    place: Place, *arguments: str, stdin: IO[str] | None = None, **variables: str
) -> Iterator[Program]:
    """Run ``relaykit`` with pipes; it is ended at the end of the block, if it runs still."""
    program = Program(place, *arguments, variables=variables, stdin=stdin)
    program.follow()
    with _ended(program):
        yield program


@contextmanager
def started_in_terminal(place: Place, *arguments: str, **variables: str) -> Iterator[Program]:
    """Run ``relaykit`` in a terminal of its own."""
    ours, theirs = os.openpty()
    try:
        try:
            program = Program(place, *arguments, variables=variables, terminal=theirs)
        finally:
            os.close(theirs)
        with _ended(program):
            program.follow(ours, ours)
            yield program
    finally:
        os.close(ours)


@contextmanager
def serving(place: Place, *arguments: str) -> Iterator[Program]:
    """Run ``relaykit serve`` on a free port, its agents all in the working directory.

    The block begins when it listens; at its end SIGTERM ends it.
    """
    with started(
        place,
        "serve",
        *arguments,
        RELAYKIT_PLUGINS__GATEWAY__PORT="0",
        RELAYKIT_RELAY__WORKSPACE="in_place",
    ) as program:
        program.expect(r"http://127\.0\.0\.1:\d+/\?token=\S+")
        try:
            yield program
        finally:
            if program.process.poll() is None:
                program.interrupt(signal.SIGTERM)
                program.exit_code()


@contextmanager
def _ended(program: Program) -> Iterator[None]:
    try:
        yield
    finally:
        process = program.process
        if process.poll() is None:
            process.kill()
            process.wait(SECONDS)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
