"""The setup command: where it runs, what it is given, what is told of it, and what is left when it fails: nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from relaykit.session import Outcome
from relaykit_worktree.errors import SetupFailed
from relaykit_worktree.processes import processes_in
from relaykit_worktree.settings import WorktreeSettings
from support.worktrees import IDENTITY, Bench, everything, git, make_repository, make_session

pytestmark = pytest.mark.anyio


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Bench(
        make_repository(tmp_path / "shop"), environ={**os.environ, "TOKEN": "sesame-open", "OTHER": "no"}
    )


def _sh(script: str, *, timeout: float = 20.0, env: tuple[str, ...] = ()) -> WorktreeSettings:
    return WorktreeSettings(setup=("sh", "-c", script), setup_timeout=timeout, setup_env=env)


async def test_it_runs_in_the_worktree_before_anybody_has_it(bench: Bench) -> None:
    bench.projects = {"shop": bench.repository / "docs"}
    bench.settings = _sh(
        'pwd; ls; cat; git worktree list --porcelain | grep ^locked; echo made >made.log; echo "err" >&2'
    )
    path = await bench.prepare(make_session())
    command, *rest = bench.said
    assert command.startswith("$ sh -c ")
    lines = "".join(rest).splitlines()
    assert lines[:2] == [str(path), "guide.md"]
    assert lines[2].startswith("locked relaykit: being made for session s1")
    assert lines[3] == "err"
    assert (path / "made.log").read_text() == "made\n"
    assert "locked" not in git(bench.repository, "worktree", "list", "--porcelain")


async def test_its_environment_is_the_safe_list_and_what_is_named(bench: Bench) -> None:
    bench.settings = _sh("env", env=("TOKEN", "MISSING"))
    await bench.prepare(make_session())
    said = dict(line.partition("=")[::2] for line in "".join(bench.said[1:]).splitlines())
    assert said["TOKEN"] == "***"
    assert said["RELAYKIT_SESSION"] == "s1"
    assert (said["RELAYKIT_PROJECT"], said["RELAYKIT_ROLE"]) == ("shop", "auth")
    assert said["RELAYKIT_CHECKOUT"] == str(bench.repository)
    assert said["PATH"] == os.environ["PATH"]
    assert not {"OTHER", "MISSING", "GIT_CONFIG_GLOBAL", "PYTEST_CURRENT_TEST"} & said.keys()
    assert "sesame" not in "".join(bench.said)


@pytest.mark.parametrize(
    ("settings", "message", "said"),
    [
        (_sh("seq 1 30; echo no $TOKEN >&2; exit 3", env=("TOKEN",)), "exited with 3", "29\n30\nno ***"),
        (_sh("echo begun; sleep 100", timeout=0.6), r"within 0\.6 s: raise `setup_timeout`", "begun"),
        (
            _sh("trap '' TERM; echo deaf; while :; do sleep 0.05; done", timeout=0.3),
            "did not end within",
            "deaf",
        ),
        (WorktreeSettings(setup=("nonexistent-program",)), "cannot be started: No such file", ""),
        (_sh("kill -9 $$"), "exited with -9", ""),
    ],
    ids=["fails", "overruns", "ignores_sigterm", "missing", "killed"],
)
async def test_a_failure_takes_the_worktree_with_it(
    bench: Bench, settings: WorktreeSettings, message: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaykit_worktree.setup_command._GRACE", 0.5)
    before = everything(bench.repository)
    bench.settings = settings
    with anyio.fail_after(20), pytest.raises(SetupFailed, match=message) as caught:
        await bench.prepare(make_session())
    assert caught.value.said.endswith(said)
    assert "sesame" not in str(caught.value)
    assert len(caught.value.said.splitlines()) <= 20
    assert everything(bench.repository) == before
    assert await processes_in(bench.repository) == []


async def test_a_stop_ends_it_and_takes_the_worktree_with_it(bench: Bench, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = everything(bench.repository)
    bench.settings = _sh(f"exec 3>'{fifo}'; sleep 100 & echo begun >&3; wait")
    rest: list[str] = []
    scope = anyio.CancelScope()

    async def stop() -> None:
        with await to_thread.run_sync(fifo.open) as reader:
            assert await to_thread.run_sync(reader.readline) == "begun\n"
            scope.cancel()
            rest.append(await to_thread.run_sync(reader.read))  # returns once no process holds the other end

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            with scope:
                await bench.prepare(make_session())
    assert scope.cancelled_caught
    assert rest == [""]
    assert everything(bench.repository) == before


async def test_what_it_leaves_behind_is_ended_and_holds_up_nothing(bench: Bench) -> None:
    bench.settings = _sh("sleep 100 & echo done")
    with anyio.fail_after(10):
        path = await bench.prepare(make_session())
    assert "".join(bench.said[1:]) == "done\n"
    with anyio.fail_after(5):
        while await processes_in(path):  # noqa: ASYNC110 -- killed it is; when it is reaped nobody tells
            await anyio.sleep(0.01)


async def test_its_output_is_told_as_it_comes_and_not_without_end(bench: Bench, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    flood = f"{sys.executable} -c \"print('x' * 9_900_000)\""
    bench.settings = _sh(f"echo first; read go <'{fifo}'; {flood}; echo last")
    first = anyio.Event()
    bench.heard = lambda text: first.set() if text == "first\n" else None

    async def go_on() -> None:
        await first.wait()  # the command waits for the fifo: it cannot have ended
        await to_thread.run_sync(fifo.write_text, "go\n")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go_on)
            await bench.prepare(make_session())
    told = sum(len(each) for each in bench.said)
    assert 250_000 < told < 300_000
    assert bench.said[-1].endswith(" bytes more\n")


async def test_others_do_not_wait_for_it(bench: Bench, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    bench.settings = _sh(f'[ $RELAYKIT_ROLE = quick ] || read go <"{fifo}"')
    begun = anyio.Event()
    bench.heard = lambda _: begun.set()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.prepare, make_session("s1", agent_id="slow"))
            await begun.wait()  # it says what it runs, and then waits for the fifo
            await bench.prepare(make_session("s2", agent_id="quick"))
            assert (await bench.clean(make_session("s2", agent_id="quick"))).outcome is Outcome.DONE
            await to_thread.run_sync(fifo.write_text, "go\n")


async def test_what_is_adopted_has_been_set_up(bench: Bench) -> None:
    bench.settings = _sh("echo once >>runs.log")
    path = await bench.prepare(make_session())
    assert (
        await bench.clean(make_session())
    ).outcome is Outcome.KEPT  # an ignored file that is not disposable
    await bench.prepare(make_session("s2"))
    assert (path / "runs.log").read_text() == "once\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"setup": ("",)},
        {"setup_timeout": 0.0},
        {"setup_env": ("TOKEN=sesame",)},
        {"git_timeout": -1.0},
        {"parked_days": 0.5},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        WorktreeSettings(**wrong)  # type: ignore[arg-type]
    assert "sesame" not in str(caught.value)
