"""(h) A worktree made and removed, against plain ``git worktree``."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio

from figures import Figure
from support.worktrees import IDENTITY, Bench, git, make_session

AIM = 1.15
ROUNDS = {20: 40, 2000: 10}
"""By the repository's files: a small one, in which starting git is all that counts, and one of a usual size."""
_BYTES = 4000


def measure_worktrees(*, scale: float) -> Sequence[Figure]:
    figures: list[Figure] = []
    for files, rounds in ROUNDS.items():
        with _repository(files) as repository:
            for backend in ("asyncio", "trio"):
                times = max(3, int(rounds * scale))
                figures += anyio.run(_measure, repository, files, times, backend, backend=backend)
    return figures


async def _measure(repository: Path, files: int, rounds: int, backend: str) -> Sequence[Figure]:
    """Measure turn by turn, so that what the machine does meanwhile meets both."""
    bench = Bench(repository)
    workspace = bench.workspace()  # one for all sessions, as a relay has it
    by_hand = str(repository.parent / "by-hand")
    ours: dict[str, list[float]] = {"add": [], "remove": []}
    plain: dict[str, list[float]] = {"add": [], "remove": []}
    for number in range(rounds + 1):
        session = make_session(f"s{number}")
        record, say = bench.recorder(session), bench.say
        # The same ends for both: a branch and a worktree, checked out; and both gone.
        await _timed(ours["add"], partial(workspace.prepare, session, record, say))
        await _timed(ours["remove"], partial(bench.clean, session))
        await _timed(plain["add"], partial(_run, repository, "worktree", "add", "-b", "by-hand", by_hand))
        await _timed(
            plain["remove"],
            partial(_run, repository, "worktree", "remove", by_hand),
            partial(_run, repository, "branch", "-d", "by-hand"),
        )
        if number == 0:  # to warm up
            for measured in (*ours.values(), *plain.values()):
                measured.clear()
    return [
        Figure(
            name=f"worktree {what}, {files:,} files ({backend})",
            value=statistics.median(ours[what]),
            unit="ms",
            reference=statistics.median(plain[what]),
            reference_name=f"git worktree {what}" + (", git branch -d" if what == "remove" else ""),
            target=f"ratio ≤ {AIM}",
            met=statistics.median(ours[what]) <= AIM * statistics.median(plain[what]),
        )
        for what in ours
    ]


async def _timed(times: list[float], *steps: Callable[[], Awaitable[object]]) -> None:
    began = time.perf_counter()
    for step in steps:
        await step()
    times.append((time.perf_counter() - began) * 1e3)


async def _run(repository: Path, *arguments: str) -> None:
    """Run git as a script would: nothing is faster than this from Python."""
    subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True)  # noqa: ASYNC221 -- as said


@contextmanager
def _repository(files: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        configuration = Path(directory, "gitconfig")
        configuration.write_text(IDENTITY)
        os.environ["GIT_CONFIG_GLOBAL"] = str(configuration)
        try:
            repository = Path(directory, "shop")
            repository.mkdir()
            git(repository, "init", "-q", "-b", "main")
            for number in range(files):
                file = repository / f"d{number % 50}" / f"f{number}.txt"
                file.parent.mkdir(exist_ok=True)
                file.write_text(f"{number}\n" * (_BYTES // (len(str(number)) + 1)))
            git(repository, "add", ".")
            git(repository, "commit", "-qm", "one")
            yield repository
        finally:
            del os.environ["GIT_CONFIG_GLOBAL"]
