"""The pump of ``relaykit connect``: waits for whoever has something to say, and passes it on."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from relaykit_gateway.address import ClientError, NoRelayRunning
from relaykit_gateway.connect.bridge import Bridge
from relaykit_gateway.connect.dialing import Dialing, Unreachable
from relaykit_gateway.connect.editor import Editor, EditorGone
from relaykit_gateway.connect.link import Link, LinkLost
from relaykit_gateway.connect.target import Target

_FULL = 1 << 20  # when so many bytes wait for one side, the other is not read
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CLOSE_SECONDS = 1.0
_FAILED = 1
_NEVER = float("inf")
_IN, _OUT = select.POLLIN, select.POLLOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a relay may be silent, and away, in seconds.

    :param keep_alive: after so long a silence a connection counts as lost.
    :param give_up: after so long without a connection, what is open is answered with errors.
    """

    keep_alive: float = 20.0
    give_up: float = 600.0


class Pump:
    """Runs one bridge, from the first connection to the end of what the editor says.

    :param find_target: asked before each connection, in a thread of its own.
    """

    def __init__(
        self, editor: Editor, bridge: Bridge, find_target: Callable[[], Target], patience: Patience
    ) -> None:
        self._editor = editor
        self._bridge = bridge
        self._find_target = find_target
        self._patience = patience
        self._link: Link | None = None
        self._dialing: Dialing | None = None
        self._dial_at = 0.0
        self._pause = _FIRST_PAUSE
        self._lost: tuple[float, str] | None = None  # when the connection was, and why there is none
        self._met = False
        self._stopping = False
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._wanted: tuple[int, int, int] | None = None  # of the editor's two descriptors and the link's
        self._woken, self._waking = os.pipe()  # never closed: a thread that dials may outlive us
        for descriptor in (self._woken, self._waking):
            os.set_blocking(descriptor, False)
        self._watch(self._woken, _IN)

    def run(self) -> int:
        """Relay until the editor has no more to say, or a signal ends us. Return the exit code.

        :raises ClientError: there was no first connection.
        """
        try:
            with self._signals():
                while not self._stopping:
                    self._turn(self._wait())
        except EditorGone:
            return 0
        except _GivenUp:
            return _FAILED
        finally:
            if self._link is not None:
                self._link.close(_CLOSE_SECONDS)
            self._editor.close()
        return 0

    # ------------------------------------------------------------ waiting

    def _wait(self) -> Mapping[int, int]:
        """Wait for something to do, and return the descriptors that are ready."""
        if self._link is None and self._dialing is None and time.monotonic() >= self._dial_at:
            self._dialing = Dialing(self._find_target, keep_alive=self._patience.keep_alive, done=self._wake)
        editor, link, deadline = self._editor, self._link, _NEVER
        listen = self._met and (link is None or link.unsent < _FULL)
        reading = editor.unheard < _FULL
        wanted = (
            _IN if listen else 0,
            _OUT if editor.unheard else 0,
            0 if link is None else (_IN if reading else 0) | (_OUT if link.unsent else 0),
        )
        if wanted != self._wanted:  # mostly it is as it was
            self._wanted = wanted
            self._watch(editor.reads, wanted[0])
            self._watch(editor.writes, wanted[1])
            if link is not None:
                self._watch(link.fileno(), wanted[2])
        if link is not None:
            deadline = link.next_look if reading else deadline
        elif self._dialing is None:
            deadline = self._dial_at
        if self._lost is not None:
            deadline = min(deadline, self._lost[0] + self._patience.give_up)
        if deadline == _NEVER:
            return dict(self._poll.poll())
        return dict(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1))

    def _watch(self, descriptor: int, events: int) -> None:
        if self._watched.get(descriptor, 0) == events:
            return
        self._watched[descriptor] = events
        if events:
            self._poll.register(descriptor, events)
        else:
            self._poll.unregister(descriptor)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it is full: we are woken
            os.write(self._waking, b"\0")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT, also while we wait."""

        def stop(_number: int, _frame: object) -> None:
            self._stopping = True

        handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        before = signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    # ------------------------------------------------------------ passing on

    def _turn(self, ready: Mapping[int, int]) -> None:
        """Do what can be done."""
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._dialing is not None:
            self._ask_for_link(self._dialing)
        link, hears = self._link, self._editor.reads in ready
        try:
            if link is not None:
                self._hear_relay(link, ready.get(link.fileno(), 0))
            if hears:
                hears = False
                self._hear_editor()
            if link is not None:
                self._tell_relay(link)
        except LinkLost as lost:
            self._lose(lost)
            if hears:
                self._hear_editor()
        self._tell_editor()
        if self._lost is not None:
            self._mind_the_time(*self._lost)

    def _lose(self, lost: LinkLost) -> None:
        """Do without the connection."""
        if self._link is None:
            return
        self._watch(self._link.fileno(), 0)
        self._link.close(0.0)
        self._link = None
        self._wanted = None
        self._bridge.disconnected(str(lost) if lost.our_fault else "")
        if self._lost is None:
            _note(f"the connection was lost ({lost}); trying again")
        self._try_later(str(lost))

    def _hear_relay(self, link: Link, events: int) -> None:
        if events & ~_OUT:
            for text in link.receive():
                self._bridge.from_relay(text)
            if self._bridge.objection:
                raise LinkLost(self._bridge.objection)
        if events & _OUT:
            link.flush()
        if self._editor.unheard < _FULL:
            link.look()

    def _tell_relay(self, link: Link) -> None:
        if self._bridge.to_relay:
            link.send(self._bridge.to_relay)
            self._bridge.to_relay.clear()

    def _hear_editor(self) -> None:
        lines = self._editor.read()
        if lines is None:
            self._stopping = True
            return
        for line in lines:
            self._bridge.from_editor(line)

    def _tell_editor(self) -> None:
        if self._bridge.to_editor:
            self._editor.write(self._bridge.to_editor)
            self._bridge.to_editor.clear()
        elif self._editor.unheard:
            self._editor.flush()

    # ------------------------------------------------------------ connections

    def _ask_for_link(self, dialing: Dialing) -> None:
        try:
            self._link = dialing.link()
        except ClientError as error:
            if not self._met:
                raise
            if not isinstance(error, Unreachable | NoRelayRunning):
                self._give_up(str(error))
            self._dialing = None
            self._try_later(str(error))
            return
        if self._link is not None:
            self._dialing = None
            self._met = True
            self._bridge.connected()

    def _try_later(self, why: str) -> None:
        import random  # takes longer than most of what is here, and no network need ever break

        now = time.monotonic()
        self._lost = (self._lost[0] if self._lost else now, why)
        self._dial_at = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret: it spreads clients
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _mind_the_time(self, since: float, why: str) -> None:
        away = time.monotonic() - since
        if self._link is not None and self._bridge.settled:
            self._lost, self._pause = None, _FIRST_PAUSE
            _note(f"connected again after {away:.1f} s")
        elif away >= self._patience.give_up:
            self._give_up(f"no connection for {away:.0f} s: {why}")

    def _give_up(self, why: str) -> NoReturn:
        _note(why)
        self._bridge.give_up(why)
        self._tell_editor()
        self._editor.drain(_CLOSE_SECONDS)
        raise _GivenUp


class _GivenUp(Exception):
    """Everything was answered: there is nothing more to do."""


def _note(text: str) -> None:
    """Say it on stderr, unless that is full: an editor may never read it."""
    with suppress(OSError):
        full = select.poll()
        full.register(sys.stderr.fileno(), _OUT)
        if full.poll(0):
            os.write(sys.stderr.fileno(), f"relaykit: {text}\n".encode())
