"""AcpCleaner: ends what a session's agent left, also when nobody holds it any more."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.meter import NO_METER, Meter
from relaykit.session.cleaner import CleanerResult, Outcome, Phase
from relaykit.session.model import Handle, Json, Session
from relaykit_acp import processes
from relaykit_acp.cgroups import end_group, group_name
from relaykit_acp.figures import LEFTOVERS_REAPED
from relaykit_acp.settings import AcpSettings

_POLL = 0.02
_KILL_GRACE = 5.0


class AcpCleaner:
    """Closes the agent that is attached; after a restart, ends the processes that are recorded.

    A process is signalled only if it is certainly the session's: its pid has the recorded start time of the
    same boot, or its environment holds the session's marker. Where there is no ``/proc`` that cannot be
    known: a pid that is in use is then reported as a failure, and left alone.
    """

    name = "acp"
    phase = Phase.AGENT

    def __init__(self, settings: AcpSettings, *, meter: Meter = NO_METER) -> None:
        self._meter = meter
        self._term_grace = settings.term_grace

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        """End the agent and everything that it started."""
        if handle is not None and handle.agent is not None:
            await handle.agent.aclose()
            return CleanerResult(self.name, Outcome.DONE)
        recorded = session.resources.get("acp")
        if not recorded:
            return CleanerResult(self.name, Outcome.SKIPPED, "no process was recorded")
        if not processes.HAS_PROC:
            return self._without_proc(recorded.get("pid"))
        result = await self._end(_Leftover(recorded))
        group = Path(recorded.get("cgroup", ""))
        if group.name == group_name(
            session.id
        ):  # with what has shed the marker; no other group, whatever is recorded
            await end_group(group)
        return result

    async def _end(self, leftover: _Leftover) -> CleanerResult:
        found = left = await to_thread.run_sync(leftover.find)
        if not found:
            return CleanerResult(self.name, Outcome.DONE, "it had ended already")
        for number, grace in ((signal.SIGTERM, self._term_grace), (signal.SIGKILL, _KILL_GRACE)):
            leftover.signal(left, number)
            deadline = anyio.current_time() + grace
            while left := await to_thread.run_sync(leftover.find):
                if anyio.current_time() >= deadline:
                    break
                if number is signal.SIGKILL:  # again, for who was forked, or was within exec, at the first
                    leftover.signal(left, number)
                await anyio.sleep(_POLL)  # they are not our children: nothing else tells of their end
            if not left:
                self._meter.count(LEFTOVERS_REAPED, len(found))
                return CleanerResult(
                    self.name, Outcome.DONE, f"ended what was left, by {number.name}: {found}"
                )
        return CleanerResult(self.name, Outcome.FAILED, f"still alive after SIGKILL: {left}")

    def _without_proc(self, pid: int | None) -> CleanerResult:
        if pid is None or not processes.pid_exists(pid):
            return CleanerResult(self.name, Outcome.DONE, "it had ended already")
        return CleanerResult(
            self.name,
            Outcome.FAILED,
            f"process {pid} may still be the agent, which cannot be known on this platform: look, and end it by hand",
        )


class _Leftover:
    """The processes of a session as they were recorded."""

    def __init__(self, recorded: Json) -> None:
        self._marker: str = recorded["marker"]
        self._group: int | None = recorded.get("pgid")
        self._group_is_ours = self._is_leader(recorded)

    def find(self) -> list[int]:
        """Return the living processes that are certainly the session's. Reads ``/proc``: call it in a thread."""
        marked = processes.marked(self._marker)
        if self._group is None:
            return marked
        members = processes.group_members(self._group)
        # Once known as ours it stays so: its number is not given to others while a member lives.
        self._group_is_ours = bool(members) and (self._group_is_ours or not set(members).isdisjoint(marked))
        return sorted({*marked, *members}) if self._group_is_ours else marked

    def signal(self, found: Sequence[int], number: signal.Signals) -> None:
        """Signal what `find` has just found."""
        if self._group is not None and self._group_is_ours:
            processes.signal_group(self._group, number)
        for pid in found:
            processes.signal_if_marked(pid, self._marker, number)

    @staticmethod
    def _is_leader(recorded: Json) -> bool:
        if recorded.get("start_time") is None or recorded.get("boot") != processes.boot_id():
            return False
        leader = processes.stat(recorded["pid"])
        return leader is not None and leader.start_time == recorded["start_time"]
