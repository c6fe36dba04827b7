"""One child process with its pipes, from its start to the end of everything that it started."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from relaykit.tasks import LazyEvent
from relaykit_acp import marked, processes
from relaykit_acp.cgroups import AgentGroup
from relaykit_acp.child import Child, start_child
from relaykit_acp.environment import RUN_VARIABLE
from relaykit_acp.figures import SHUTDOWN_STEPS
from relaykit_acp.household import NOBODY, Household, Left
from relaykit_acp.lines import LineSplitter
from relaykit_acp.mask import NO_SECRETS, Mask

logger = logging.getLogger(__name__)

_STDERR_LINES = 20
_STDERR_LINE_LENGTH = 500
_STDERR_LINE_LIMIT = 64 * 1024

# After its exit: time to wait for what is still in the pipes, which others may hold open for ever.
_DRAIN_GRACE = 0.1
# SIGKILL works at once, but for a process that the kernel cannot wake.
_KILL_GRACE = 5.0
_POLL = 0.02
_LOOK_AGAIN = 0.25
_STRAY_ROUNDS = 50


class AgentProcess:
    """A running agent: bytes in, bytes out, its last words, and its end.

    One task reads, and one writes at a time. Two background tasks belong to it: one watches for the exit, and
    one drains stderr. Made by `start_process`.
    """

    def __init__(
        self,
        child: Child,
        household: Household,
        *,
        label: str,
        marker: str,
        group: AgentGroup | None,
        mask: Mask,
    ) -> None:
        self.pid = child.pid
        self.exited = LazyEvent()
        self._child = child
        self._label = label
        self._marker = marker
        self._group = group
        self._mask = mask
        self._household = household
        self._last_words: list[str] = []
        self._stderr_drained = LazyEvent()
        self._background = anyio.CancelScope(shield=True)
        self._closed: anyio.Event | None = None  # made by who closes

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative: the signal that ended it; None while it runs."""
        return self._child.exit_code

    @property
    def stderr(self) -> str:
        """The last lines that it wrote to its standard error."""
        return "\n".join(self._last_words)

    # ------------------------------------------------------------ bytes

    async def read(self) -> bytes:
        """Return the next bytes of stdout, or nothing once there will be none.

        Ends soon after the process did, whoever else holds the pipe.
        """
        return await self._child.stdout.receive()

    @property
    def gone(self) -> bool:
        """It has ended, or is being ended: nothing can be written any more."""
        return self._closed is not None or self.exited.is_set()

    def write_nowait(self, data: bytes) -> bool:
        """Write a line of at most ``PIPE_BUF`` bytes if that takes no waiting; else do nothing and return False."""
        try:
            return not self.gone and self._child.stdin.send_nowait(data)
        except (anyio.ClosedResourceError, OSError):
            return False

    async def write(self, data: bytes) -> bool:
        """Write all of it; return False if the process is gone. One writer at a time.

        A process that does not read is waited for, until `aclose` or its end. A caller that is cancelled
        may have written a part of it, if it is longer than ``PIPE_BUF``.
        """
        if self.gone:
            return False
        try:
            await self._child.stdin.send(data)
        except (anyio.ClosedResourceError, OSError):
            return False
        return True

    async def settle(self) -> None:
        """Wait a moment for the exit code and the last words of a process that seems to have ended."""
        with anyio.move_on_after(_DRAIN_GRACE):
            await self.exited.wait()
            await self._stderr_drained.wait()

    # ------------------------------------------------------------ background

    async def watch(self) -> None:
        """Wait for the exit, and end what would wait for other holders of the pipes."""
        with self._background:
            await self._child.wait_end()  # its pid stays its own: see `_signal`
            self.exited.set()
            self._child.stdin.close()
            logger.info("%s: process %d ended with %s", self._label, self.pid, self.exit_code)
            # What it said last is in the pipes; its children may still add to it.
            await anyio.sleep(_DRAIN_GRACE)
            self._child.stdout.close()
            self._child.stderr.close()

    async def drain_stderr(self) -> None:
        """Read stderr until its end, so that the process never waits for us there."""
        lines = LineSplitter(_STDERR_LINE_LIMIT)
        try:
            with anyio.CancelScope(shield=True):
                while chunk := await self._child.stderr.receive():
                    for line in lines.feed(chunk):
                        self._heard(line)
                    if lines.overflowed:
                        lines = LineSplitter(_STDERR_LINE_LIMIT)
                        self._heard(b"(a line too long to keep)")
                for line in lines.feed(b"\n"):
                    self._heard(line)
        finally:
            self._stderr_drained.set()

    def _heard(self, line: bytes) -> None:
        # Masked before it is cut: half a secret would not be known as one.
        text = self._mask(line.decode(errors="replace"))[:_STDERR_LINE_LENGTH].rstrip()
        if text:
            self._last_words = [*self._last_words[1 - _STDERR_LINES :], text]
            logger.info("%s: stderr: %s", self._label, text)

    # ------------------------------------------------------------ the end

    async def aclose(self) -> None:
        """End the process and everything that it started: EOF, SIGTERM, SIGKILL, then whoever left its group.

        Takes the two graces and a moment at most. Idempotent; concurrent calls wait for the first.
        """
        if self._closed is not None:
            await self._closed.wait()
            return
        self._closed = anyio.Event()
        with anyio.CancelScope(shield=True):
            async with AsyncExitStack() as steps:  # the last is the first, and none is left out
                steps.callback(self._closed.set)
                steps.callback(self._household.live.discard, self)
                steps.callback(self._release)
                if self._group is not None:
                    steps.push_async_callback(self._group.aclose)
                steps.push_async_callback(self._end)

    async def _end(self) -> None:
        self._count("eof")
        self._child.stdin.close()
        with anyio.move_on_after(self._household.eof_grace):
            await self.exited.wait()
        left = await self._left()
        steps = (
            ("term", signal.SIGTERM, self._household.term_grace),
            ("kill", signal.SIGKILL, _KILL_GRACE),
        )
        for step, number, grace in steps:
            if not left.led:
                break
            self._count(step)
            logger.info("%s: %s of group %d live on: %s", self._label, left.led, self.pid, number.name)
            self._signal(left, number)
            left = await self._left(within=grace)
        for turn in range(_STRAY_ROUNDS):
            if not left.strays:
                break
            if not turn:
                self._count("stray")
            logger.warning("%s: %s left the process group: SIGKILL", self._label, left.strays)
            await self._kill_strays(left.strays)
            left = await self._left()
        if left.led or left.strays:
            logger.error("%s: %s outlived SIGKILL", self._label, [*left.led, *left.strays])

    async def _left(self, *, within: float = 0.0) -> Left:
        """Return what is left, once the process has ended and all of its group, or the time is up."""
        # Not only the leader: npx, uvx and the like start the real agent as a child.
        deadline = anyio.current_time() + within
        with anyio.CancelScope(deadline=deadline):
            await self.exited.wait()
        if not processes.HAS_PROC:
            return await self._group_left(deadline)
        while True:
            # A host application may have reaped it: whose group and session that is now, nobody knows.
            leader = NOBODY if self._child.reaped else self.pid
            left = await self._household.census.left(self._marker, leader)
            time_left = deadline - anyio.current_time()
            if not left.led or time_left <= 0:
                return left
            await processes.until_ended(left.led[0], seconds=min(time_left, _LOOK_AGAIN))

    async def _group_left(self, deadline: float) -> Left:
        while not self.exited.is_set() or processes.group_exists(self.pid):
            if anyio.current_time() >= deadline:
                return Left(led=[self.pid])
            await anyio.sleep(_POLL)
        return Left()

    def _signal(self, left: Left, number: signal.Signals) -> None:
        """Signal the group, and who is in the session but in another group, as a shell's jobs are."""
        # Until the process is reaped, the number of its group and of its session is nobody else's.
        if self._child.reaped and processes.HAS_PROC:
            return
        processes.signal_group(self.pid, number)
        for pid in left.led:
            marked.signal_if(pid, self._is_led_apart, number)

    def _is_led_apart(self, pid: int) -> bool:
        return processes.is_led_apart(pid, self.pid)

    async def _kill_strays(self, strays: Sequence[int]) -> None:
        async with anyio.create_task_group() as tasks:
            for pid in strays:
                tasks.start_soon(processes.kill, pid, self._bears_our_marker)

    def _bears_our_marker(self, pid: int) -> bool:
        return marked.is_marked(pid, self._marker)

    def _count(self, step: str) -> None:
        self._household.meter.count(SHUTDOWN_STEPS, step=step)

    def _release(self) -> None:
        self._background.cancel()
        self._child.close()


async def start_process(
    command: Sequence[str],
    household: Household,
    *,
    environment: Mapping[str, str],
    cwd: Path,
    agent: str,
    label: str,
    marker: str,
    group: AgentGroup | None = None,
    mask: Mask = NO_SECRETS,
) -> AgentProcess:
    """Start a program as the leader of a session and process group of its own.

    Cancelled or failed, it leaves nothing; once it returns, the process is the caller's to close.

    :param label: what log lines call it.
    :param marker: the entry of `environment` by which its descendants are known.
    :param group: the control group that it is to be in from its start, and that ends with it.
    :param mask: takes secrets out of what it writes to its standard error.
    :raises SpawnError: as `start_child`.
    """
    watcher = household.watcher
    environment = {**environment, RUN_VARIABLE: watcher.run}
    with anyio.CancelScope(shield=True):
        await watcher.start()
        joining = group.joining if group is not None else ()
        child = await start_child(command, environment=environment, cwd=cwd, agent=agent, joining=joining)
    process = AgentProcess(child, household, label=label, marker=marker, group=group, mask=mask)
    household.live.add(process)
    household.tasks.start_soon(process.watch)
    household.tasks.start_soon(process.drain_stderr)
    return process
