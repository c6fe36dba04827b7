"""Control groups, version 2: the kernel's own account of which processes belong together (cgroups(7)).

A process joins a group before it becomes the agent, and all that it ever starts is born into it, whatever session,
process group or environment it takes. So a group's limits hold for all of them together, and its end is theirs.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit_acp.limits import Limit

logger = logging.getLogger(__name__)

_RELAY = "relaykit-relay"
"""The group that the relay itself moves to: only groups without processes may give limits to groups below them."""

_POLL = 0.01
_KILL_GRACE = 5.0
_TRIES = 10

_JOIN = 'echo 0 > "$0" && exec "$@"'
"""What a shell does to join a group and become the program. 0 is the writer: no pid has to be right."""

_EVENTS = (
    # Both: with an `oom_kill` alone the machine was out of memory, and not the group.
    ("memory_max", "memory.events", ("oom", "oom_kill")),
    ("processes_max", "pids.events", ("max",)),
)
"""What tells that a limit was hit: its setting, the file, and the counters there, of which none may be 0."""


def own_group(proc: Path = Path("/proc/self")) -> Path | None:
    """Return the directory of the group that this process is in; None if it does not show here."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in groups if line.startswith("0::/")), None)
    for fields, _, kind in (mount.partition(" - ") for mount in mounts):
        if path is not None and kind.startswith("cgroup2 "):
            root, point = fields.split()[3:5]
            below = os.path.relpath(path, root)
            if not below.startswith(".."):  # else it lies outside of what is mounted here
                return Path(point) / below
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How limits can be enforced here. Nothing was changed to make it.

    :param base: the group below which each agent gets one of its own; None if no limit can be enforced.
    :param enforced: the limits that can be.
    :param unenforced: those that cannot, and why, for people.
    :param moving: the processes that have to leave `base` first: this one, and what it has started.
    :param enabling: the controllers that have to be switched on for what is below `base`.
    """

    base: Path | None
    enforced: Sequence[Limit]
    unenforced: Sequence[tuple[Limit, str]]
    moving: Sequence[int] = ()
    enabling: Sequence[str] = ()


def plan(limits: Sequence[Limit], own: Path | None) -> Plan:
    """Say how limits can be enforced, from the group that this process is in. Reads files: blocks.

    :param own: see `own_group`.
    """
    if own is None:
        return _nothing(limits, "this system shows no control groups of version 2 (cgroup2 is not mounted)")
    base = own.parent if own.name == _RELAY else own
    try:
        there = set((base / "cgroup.controllers").read_text().split())
        on = set((base / "cgroup.subtree_control").read_text().split())
        inside = _pids(base)
    except OSError as error:
        return _nothing(limits, f"{base} cannot be read: {error.strerror}")
    missing = [limit for limit in limits if limit.controller not in there]
    enforced = [limit for limit in limits if limit.controller in there]
    unenforced = [(limit, f"the group {base} has no controller {limit.controller!r}") for limit in missing]
    if not enforced:
        return Plan(base=None, enforced=(), unenforced=unenforced)
    enabling = [limit.controller for limit in enforced if limit.controller not in on]
    why = ""
    if not all(os.access(base / name, os.W_OK) for name in (".", "cgroup.procs", "cgroup.subtree_control")):
        why = f"the group {base} is not this user's to divide"
    elif enabling and (strangers := sorted(set(inside) - _family())):
        shown = ", ".join(map(str, strangers[:5]))
        why = f"other programs are in the group {base} too (processes {shown})"
    if why:
        return Plan(base=None, enforced=(), unenforced=[*unenforced, *((limit, why) for limit in enforced)])
    return Plan(
        base=base,
        enforced=enforced,
        unenforced=unenforced,
        moving=inside if enabling else (),
        enabling=enabling,
    )


def _nothing(limits: Sequence[Limit], why: str) -> Plan:
    return Plan(base=None, enforced=(), unenforced=[(limit, why) for limit in limits])


def carry_out(plan: Plan) -> None:
    """Prepare the groups for a plan's agents. Writes files: blocks.

    :raises OSError: the kernel refuses.
    """
    if plan.base is None or not plan.enabling:
        return
    relay = plan.base / _RELAY
    relay.mkdir(exist_ok=True)
    for attempt in range(_TRIES):
        for pid in _pids(plan.base) if attempt else plan.moving:
            try:
                (relay / "cgroup.procs").write_text(str(pid))
            except ProcessLookupError:
                continue  # it has ended meanwhile
        try:
            (plan.base / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in plan.enabling))
        except OSError as error:
            # EBUSY: one of ours was started meanwhile.
            if error.errno != errno.EBUSY or attempt == _TRIES - 1:
                raise
        else:
            return


def _family() -> set[int]:
    """Return this process, and all that it has started."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 -- as in `processes`
        if name.isdecimal():
            try:
                raw = Path("/proc", name, "stat").read_bytes()
            except OSError:
                continue
            parents[int(name)] = int(raw[raw.rindex(b")") + 2 :].split()[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


# ---------------------------------------------------------------- one agent's group


def group_name(session_id: str) -> str:
    """Return what the group of a session's agent is called."""
    return f"relaykit-{session_id}"


class AgentGroup:
    """The group of one agent, from before its start until all that is in it has ended.

    :param path: its directory; its parent's is there.
    """

    def __init__(self, path: Path, limits: Sequence[Limit]) -> None:
        self.path = path
        self._limits = limits
        self._before: dict[str, int] = {}

    def make(self) -> None:
        """Make the group. Writes files: blocks.

        :raises OSError: the kernel refuses.
        """
        self.path.mkdir(exist_ok=True)
        for limit in self._limits:
            for name, value in limit.files.items():
                (self.path / name).write_text(value)
            for name, value in limit.optional_files.items():
                if (self.path / name).exists():  # not every kernel has it
                    (self.path / name).write_text(value)
        self._before = dict(self._hits())

    @property
    def joining(self) -> tuple[str, ...]:
        """What stands before a command so that it joins first: if that fails, the program is not started."""
        return ("/bin/sh", "-c", _JOIN, str(self.path / "cgroup.procs"))

    def exceeded(self) -> Limit | None:
        """Return the limit that the agent has hit; None if it has hit none. Two short reads."""
        for setting, count in self._hits():
            if count > self._before.get(setting, 0):
                return next((limit for limit in self._limits if limit.setting == setting), None)
        return None

    def _hits(self) -> Iterator[tuple[str, int]]:
        for setting, name, counters in _EVENTS:
            try:
                lines = (self.path / name).read_text().splitlines()
            except OSError:
                continue  # that controller is off
            counts = {name: int(count) for name, count in map(str.split, lines)}
            yield setting, min(counts.get(counter, 0) for counter in counters)

    def kill(self) -> None:
        """Have all that is in the group end at once."""
        try:
            if (self.path / "cgroup.kill").exists():
                (self.path / "cgroup.kill").write_text("1")
            else:  # before Linux 5.14
                _kill_each(self.path)
        except OSError as error:
            logger.warning("%s cannot be ended as a whole: %s", self.path, error.strerror)

    async def aclose(self) -> None:
        """End all that is in the group, and remove it. Idempotent."""
        await end_group(self.path)


async def end_group(path: Path) -> None:
    """End all that is in an agent's group, and remove it. One that is not there is no error. Not to be cancelled."""
    group = AgentGroup(path, ())
    with anyio.CancelScope(shield=True):
        deadline = anyio.current_time() + _KILL_GRACE
        while await to_thread.run_sync(_is_populated, path):
            if anyio.current_time() >= deadline:
                logger.error("what is in %s outlives SIGKILL: it stays", path)
                return
            await to_thread.run_sync(group.kill)
            await anyio.sleep(_POLL)
        try:
            await to_thread.run_sync(_remove, path)
        except OSError as error:
            logger.warning("%s cannot be removed: %s", path, error.strerror)


def _is_populated(path: Path) -> bool:
    try:
        return "populated 1" in (path / "cgroup.events").read_text().splitlines()
    except OSError:
        return False


def _kill_each(path: Path) -> None:
    for pid in _pids(path):
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            continue  # it has ended
        try:
            if pid in _pids(path):  # and is not another by now
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a group, and those that its agent may have made in it."""
    if not path.is_dir():
        return
    for below in path.iterdir():
        if below.is_dir() and not below.is_symlink():
            _remove(below)
    path.rmdir()


def _pids(path: Path) -> Sequence[int]:
    pids = [int(line) for line in (path / "cgroup.procs").read_text().split()]
    return [pid for pid in pids if pid > 0]  # 0 stands for a process that is not to be seen from here
