"""Sessions in worktrees: each role its own, gone afterwards, but never with work in it."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from relaykit.relay import Relay
from support.relays import Client, active_session, ended, following, nothing_is_left, running_relay
from support.sleepers import REMEMBERING, House
from support.worktrees import IDENTITY, commit, git

pytestmark = pytest.mark.anyio


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the relay's project a repository with a commit."""
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    path = tmp_path / "project"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    commit(path, "code.py")
    return path


def worktrees(project: Path) -> list[str]:
    """Return the paths of the repository's worktrees but for the main one."""
    listed = git(project, "worktree", "list", "--porcelain").splitlines()
    return [line.removeprefix("worktree ") for line in listed if line.startswith("worktree ")][1:]


async def cleanup_of(relay: Relay, client: Client) -> dict[str, tuple[str, str]]:
    """Stop the session, and return outcome and detail of each cleaner as the last notice says them."""
    await relay.stop(client.session_id, "done")
    last = await client.until_notice("ended")
    await client.until_the_end()
    return {line["cleaner"]: (line["outcome"], line["detail"]) for line in last["cleanup"]}


async def test_a_worktree_comes_and_goes_with_its_session(tmp_path: Path, project: Path) -> None:
    async with running_relay(tmp_path, workspace="worktree") as relay, active_session(relay) as client:
        session = await relay.require(client.session_id)
        assert session.worktree_dir is not None
        assert worktrees(project) == [session.worktree_dir]
        assert (Path(session.worktree_dir) / "code.py").is_file()
        assert "relaykit/auth" in git(project, "branch", "--list", "relaykit/auth")
        await client.say("hello", "t1")
        await client.until_turn_end("t1")
        cleanup = await cleanup_of(relay, client)
        assert {cleaner: outcome for cleaner, (outcome, _) in cleanup.items()} == {
            "acp": "DONE",
            "worktree": "DONE",
        }
        await ended(relay, session.id)
        await nothing_is_left(relay, session)
    assert worktrees(project) == []
    assert not await anyio.Path(session.worktree_dir).exists()


async def test_a_worktree_with_work_in_it_is_kept_and_adopted(tmp_path: Path, project: Path) -> None:
    async with running_relay(tmp_path, workspace="worktree") as relay:
        async with active_session(relay) as client:
            session = await relay.require(client.session_id)
            assert session.worktree_dir is not None
            work = Path(session.worktree_dir) / "work.py"
            work.write_text("work\n")
            outcome, detail = (await cleanup_of(relay, client))["worktree"]
            assert outcome == "KEPT"
            assert "work.py" in detail
            await ended(relay, session.id)
            await nothing_is_left(relay, session)
        assert work.read_text() == "work\n"
        assert worktrees(project) == [session.worktree_dir]
        async with active_session(relay) as again:
            assert (await relay.require(again.session_id)).worktree_dir == session.worktree_dir
            work.unlink()
            outcome, _ = (await cleanup_of(relay, again))["worktree"]
            assert outcome == "DONE"
    assert worktrees(project) == []


async def test_each_role_works_in_its_own(tmp_path: Path, project: Path) -> None:
    async with running_relay(tmp_path, workspace="worktree") as relay:
        sessions = [await relay.create(f"role-{number}") for number in range(4)]
        for session in sessions:
            async with following(relay, session.id) as client:
                await client.until_notice("active")
        directories = {(await relay.require(session.id)).worktree_dir for session in sessions}
        assert directories == set(worktrees(project))
        assert len(directories) == 4
    assert worktrees(project) == []


async def test_a_stop_while_the_worktree_is_made_leaves_none(tmp_path: Path, project: Path) -> None:
    async with running_relay(tmp_path, workspace="worktree") as relay:
        for number in range(8):
            session = await relay.create(f"role-{number}")
            await anyio.sleep(number * 0.005)
            await relay.stop(session.id, "changed my mind")
            await ended(relay, session.id)
            await nothing_is_left(relay, session)
            assert worktrees(project) == []


async def test_what_a_setup_command_says_is_in_the_transcript(tmp_path: Path, project: Path) -> None:
    script = "echo ready in $PWD >made.pyc; cat made.pyc; [ $RELAYKIT_ROLE = auth ]"
    setup = f"[plugins.worktree]\nsetup = ['sh', '-c', '{script}']\n"
    (project / ".gitignore").write_text("*.pyc\n")
    git(project, "add", ".gitignore")
    git(project, "commit", "-qm", "ignore")
    async with running_relay(tmp_path, workspace="worktree", toml=setup) as relay:
        async with active_session(relay) as client:
            session = await relay.require(client.session_id)
            said = [
                json.loads(entry.frame.body) for entry in client.entries if entry.frame.method == "preparing"
            ]
            assert said[0]["text"].startswith("$ sh -c ")
            assert said[1:] == [{"text": f"ready in {session.worktree_dir}\n"}]
            assert (await cleanup_of(relay, client))["worktree"][0] == "DONE"
        # One that fails ends the session, with its last words as the reason, and leaves nothing.
        failing = await relay.create("other")
        async with following(relay, failing.id) as client:
            last = await client.until_notice("ended")
        assert last["cause"] == "SPAWN_FAILED"
        assert "exited with 1; its last words were:\nready in " in last["reason"]
        assert [line["outcome"] for line in last["cleanup"] if line["cleaner"] == "worktree"] == ["DONE"]
        assert worktrees(project) == []
        assert git(project, "branch", "--list", "relaykit/*") == ""


async def test_a_worktree_that_is_deleted_under_its_session(tmp_path: Path, project: Path) -> None:
    """One that sleeps cannot be woken, and sleeps on; one that is awake goes on."""
    async with (
        House(tmp_path).relay(RELAY__WORKSPACE="worktree") as relay,
        active_session(relay, agent=REMEMBERING) as client,
    ):
        session = await relay.require(client.session_id)
        assert session.worktree_dir is not None
        directory, away = Path(session.worktree_dir), tmp_path / "away"
        await client.say("one", "t1")
        await client.until_turn_end("t1")
        await relay.live(session.id).fall_asleep("it is late")
        await client.until_notice("asleep")
        await anyio.Path(directory).rename(away)
        await client.say("two", "t2")
        failed = await client.until_notice("wake_failed")
        assert f"its working directory {str(directory)!r} is missing" in failed["reason"]
        await anyio.Path(away).rename(directory)
        await client.say("three", "t3")
        await client.until_turn_end("t3")
        await anyio.run_process(["rm", "-r", str(directory)])
        await client.say("four", "t4")
        await client.until_turn_end("t4")
        assert (await cleanup_of(relay, client))["worktree"][0] == "DONE"
    assert worktrees(project) == []
    assert git(project, "branch", "--list", "relaykit/*") == ""


async def test_what_was_parked_is_there_again_when_its_session_is(tmp_path: Path, project: Path) -> None:
    parking = "[plugins.worktree]\non_dirty = 'park'\n"
    async with House(tmp_path).relay(RELAY__WORKSPACE="worktree", toml=parking) as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            session = await relay.require(client.session_id)
            assert session.worktree_dir is not None
            work = Path(session.worktree_dir) / "work.py"
            work.write_text("work\n")
            outcome, detail = (await cleanup_of(relay, client))["worktree"]
            assert (outcome, f"relaykit worktrees restore {session.id}" in detail) == ("DONE", True)
            await ended(relay, session.id)
        assert worktrees(project) == []
        await relay.revive(session.id)
        async with following(relay, session.id, after=client.entries[-1].seq) as again:
            await again.until_notice("active")
            assert work.read_text() == "work\n"
            assert (await cleanup_of(relay, again))["worktree"][0] == "DONE"
            await ended(relay, session.id)
    assert worktrees(project) == []
    assert len(git(project, "for-each-ref", "refs/relaykit").splitlines()) == 1
