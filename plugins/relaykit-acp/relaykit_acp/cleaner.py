"""AcpCleaner: ends what a session's agent left, also when nobody holds it any more."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.meter import NO_METER, Meter
from relaykit.session.cleaner import CleanerResult, Outcome, Phase
from relaykit.session.model import Handle, Json, Session
from relaykit_acp import marked, processes
from relaykit_acp.cgroups import end_group, group_name
from relaykit_acp.figures import LEFTOVERS_REAPED
from relaykit_acp.processes import ProcessStat
from relaykit_acp.settings import AcpSettings

_LOOK_AGAIN = 0.25
_KILL_GRACE = 5.0


class AcpCleaner:
    """Closes the agent that is attached; after a restart, ends the processes that are recorded.

    A process is signalled only if it is certainly the session's: its pid has the recorded start time of the
    same boot, or its environment holds the session's marker, or it is in one group or session with such a
    process, under the recorded leader. Where there is no ``/proc`` that cannot be
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
            leftover.signal(number)
            deadline = anyio.current_time() + grace
            while left := await to_thread.run_sync(leftover.find):
                time_left = deadline - anyio.current_time()
                if time_left <= 0:
                    break
                if number is signal.SIGKILL:  # again, for who was forked, or was within exec, at the first
                    leftover.signal(number)
                await processes.until_ended(left[0], seconds=min(time_left, _LOOK_AGAIN))
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
        self._leader: int | None = recorded.get("pgid")
        self._known: dict[int, int] = {}  # pids to start times: processes that are certainly the session's
        if recorded.get("start_time") is not None and recorded.get("boot") == processes.boot_id():
            self._known[recorded["pid"]] = recorded["start_time"]

    def find(self) -> list[int]:
        """Return the living processes that are certainly the session's. Reads ``/proc``: call it in a thread.

        :raises OSError: too many files are open.
        """
        for pid in marked.marked(self._marker):
            seen = processes.stat(
                pid
            )  # before, and compared behind: the marker is that process's, and no other's
            if seen is not None and marked.is_marked(pid, self._marker):
                self._know(seen)
        if self._leader is not None:
            led = processes.led_by({self._leader}).get(self._leader, ())
            # If one of them is known, then nobody else was given their leader's pid meanwhile, which their group
            # and session have as their number: all of them are ours.
            if any(each.pid in self._known and self._lives_on(each.pid) for each in led):
                for each in led:
                    self._know(each)
        return [pid for pid in sorted(self._known) if self._lives_on(pid)]

    def signal(self, number: signal.Signals) -> None:
        """Signal what is known, one by one: the number of a group may be another's by now, a pidfd never is."""
        for pid in self._known:
            marked.signal_if(pid, self._lives_on, number)

    def _know(self, seen: ProcessStat) -> None:
        now = processes.stat(seen.pid)
        if now is not None and now.start_time == seen.start_time:
            self._known[seen.pid] = seen.start_time

    def _lives_on(self, pid: int) -> bool:
        seen = processes.stat(pid)
        return seen is not None and seen.alive and seen.start_time == self._known[pid]
