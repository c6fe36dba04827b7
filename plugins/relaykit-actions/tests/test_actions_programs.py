"""Programs that hooks run: what they are given, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from anyio import CapacityLimiter

from relaykit_actions import program
from relaykit_actions.errors import ActionFailed
from relaykit_actions.happenings import Happening
from relaykit_actions.program import Program, run
from relaykit_actions.template import Template
from support.sleepers import until

pytestmark = pytest.mark.anyio

PATH = {"PATH": os.environ["PATH"]}
ASKED = Happening(
    "question",
    datetime(2030, 1, 1, tzinfo=UTC),
    {"session_id": "s1", "agent_id": "auth", "tool": 'rm "$HOME"; `id`\n\0 $(id)'},
)

# It has a child, and both ignore what is asked of them. Both hold standard error open.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print("I stay", file=sys.stderr, flush=True)
    with open(sys.argv[1] + ".new", "w") as file: file.write(f"{os.getpid()} {child}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # of a child whose parent was killed nobody may take note for a while
    return not stat.exists() or stat.read_text().rpartition(") ")[2][0] not in "ZX"


async def until_gone(pid: int) -> None:
    await until(lambda: not is_alive(pid))


async def pids_in(file: Path) -> list[int]:
    await until(file.exists)
    return [int(word) for word in (await anyio.Path(file).read_text()).split()]


async def test_it_gets_its_arguments_the_event_and_no_more(tmp_path: Path) -> None:
    look = (
        "import json, os, sys;"
        "json.dump([sys.argv[2:], json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"
    )
    environment = {"HOME": "/", "LC_ALL": "C.UTF-8", "GIVEN": "mellon"}
    arguments = ["-I", "-c", look, str(tmp_path / "seen"), "{agent_id} wants: {tool}", "{event} {at}", "{{}}"]
    fields = [*ASKED.facts, "event", "at"]
    look_around = Program(
        path=sys.executable,
        arguments=[Template(argument, fields) for argument in arguments],
        environment=environment,
        timeout=20,
    )
    await look_around.do(ASKED, CapacityLimiter(1))
    given, event, seen = json.loads((tmp_path / "seen").read_text())
    assert given == [
        'auth wants: rm "$HOME"; `id`   $(id)',  # no shell, no second line
        "question 2030-01-01T00:00:00+00:00",
        "{}",
    ]
    assert event == {"type": "question", "timestamp": "2030-01-01T00:00:00+00:00", "data": ASKED.facts}
    assert seen == environment


async def test_it_need_not_read_and_may_say_a_lot() -> None:
    noisy = "import sys; sys.stderr.write('x' * 5_000_000 + chr(10))"
    await run((sys.executable, "-I", "-c", noisy), b"x" * 5_000_000, PATH, seconds=20)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("sh", "-c", "for n in $(seq 30); do echo line $n >&2; done; exit 3"),
            r"it ended with 3; it said last:\nline 21\n(.*\n)*line 30$",
        ),
        (("sh", "-c", "kill -9 $$"), "it ended with -9$"),
        (("/",), "it could not be started: Permission denied"),
        (("true", "x" * 300_000), "it could not be started: Argument list too long"),
    ],
    ids=["fails", "is killed", "no program", "too long"],
)
async def test_what_went_wrong_is_said(command: tuple[str, ...], said: str) -> None:
    before = open_files()
    with pytest.raises(ActionFailed, match=said):
        await run(command, b"{}", PATH, seconds=20)
    assert open_files() == before


async def test_one_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_TERM_GRACE", 0.1)
    before = open_files()
    with pytest.raises(ActionFailed, match=r"longer than 2 s, and was ended; it said last:\nI stay"):
        await run((sys.executable, "-I", "-c", STUBBORN, str(tmp_path / "pids")), b"", PATH, seconds=2)
    for pid in await pids_in(tmp_path / "pids"):
        await until_gone(pid)
    assert open_files() == before


async def test_one_whose_turn_is_cancelled_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_TERM_GRACE", 0.1)
    async with anyio.create_task_group() as tasks:
        command = (sys.executable, "-I", "-c", STUBBORN, str(tmp_path / "pids"))
        tasks.start_soon(lambda: run(command, b"", PATH, seconds=600))
        pids = await pids_in(tmp_path / "pids")
        assert all(map(is_alive, pids))
        tasks.cancel_scope.cancel()
    for pid in pids:
        await until_gone(pid)


async def test_what_it_leaves_behind_is_ended(tmp_path: Path) -> None:
    leave = f"sleep 600 & echo $! > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pids"
    with anyio.fail_after(20):
        await run(("sh", "-c", leave), b"", PATH, seconds=600)
    [pid] = await pids_in(tmp_path / "pids")
    await until_gone(pid)


def open_files() -> Mapping[str, str]:
    """Return our open files, but for what the test's machinery opens and closes meanwhile."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        return {}
    found = {}
    for each in descriptors.iterdir():
        try:
            found[each.name] = str(each.readlink())
        except OSError:
            continue  # the one by which we look
    return found
