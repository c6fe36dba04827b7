"""What the plugin registers, and the small readers that it rests on."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from relaykit.clock import SystemClock
from relaykit.errors import WorkspaceError
from relaykit.hooks.registration import PluginContext
from relaykit.ids import SystemIds
from relaykit.meter import NoMeter
from relaykit.session import Phase
from relaykit_worktree import WorktreePlugin
from relaykit_worktree.cleaner import WorktreeCleaner
from relaykit_worktree.errors import GitError
from relaykit_worktree.facts import Facts
from relaykit_worktree.processes import processes_in
from relaykit_worktree.repository import parse_worktrees
from relaykit_worktree.settings import WorktreeSettings
from relaykit_worktree.workspace import WorktreeWorkspace

README = Path(__file__).parents[1] / "README.md"


def _context(tmp_path: Path, settings: WorktreeSettings | None) -> PluginContext:
    return PluginContext(
        name="worktree",
        settings=settings,
        projects={"shop": tmp_path},
        agents={},
        state_dir=tmp_path,
        node="local",
        clock=SystemClock(),
        ids=SystemIds(),
        meter=NoMeter(),
    )


@pytest.mark.parametrize("settings", [None, WorktreeSettings(base="main")])
def test_it_registers_a_workspace_and_a_cleaner_of_one_name(
    tmp_path: Path, settings: WorktreeSettings | None
) -> None:
    context = _context(tmp_path, settings)
    plugin = WorktreePlugin()
    workspaces = plugin.relaykit_register_workspaces(context=context)
    cleaners = plugin.relaykit_register_cleaners(context=context)
    assert isinstance(workspaces["worktree"], WorktreeWorkspace)
    assert [(cleaner.name, cleaner.phase) for cleaner in cleaners] == [("worktree", Phase.WORKSPACE)]
    assert isinstance(cleaners[0], WorktreeCleaner)
    assert plugin.relaykit_register_settings() is WorktreeSettings


def test_the_readme_has_everything_that_is_recorded() -> None:
    text = README.read_text(encoding="utf-8")
    for field in fields(Facts):
        assert f"| `{field.name}` |" in text


def test_the_listing_of_worktrees_is_read_whatever_is_in_it() -> None:
    listing = (
        "worktree /a b\nc\0HEAD 1\0branch refs/heads/main\0\0"
        "worktree /d\0HEAD 2\0detached\0locked\0\0"
        "worktree /e\0HEAD 3\0branch refs/heads/x\0locked why not\nreally\0prunable gone\0\0"
        "worktree /f\0bare\0\0"
    )
    assert [
        (os.fspath(one.path), one.head, one.branch, one.locked, one.prunable)
        for one in parse_worktrees(listing)
    ] == [
        ("/a b\nc", "1", "refs/heads/main", None, None),
        ("/d", "2", None, "", None),
        ("/e", "3", "refs/heads/x", "why not\nreally", "gone"),
        ("/f", None, None, None, None),
    ]


@pytest.mark.anyio
async def test_without_proc_no_process_is_seen(tmp_path: Path) -> None:
    assert os.getpid() in await processes_in(Path.cwd())
    assert await processes_in(Path.cwd(), proc=tmp_path / "missing") == []


def test_a_git_error_is_a_workspace_error_and_carries_its_facts() -> None:
    error = GitError("it failed", arguments=("status",), exit_code=128, stderr="fatal: no")
    assert isinstance(error, WorkspaceError)
    assert (error.arguments, error.exit_code, error.stderr) == (("status",), 128, "fatal: no")
    assert not error.is_contention
    assert GitError("", stderr="fatal: Unable to create '/r/.git/index.lock': File exists.").is_contention
    assert GitError("", stderr="fatal: failed to read worktrees/auth/commondir: Success").is_contention
    assert GitError("", stderr="fatal: bad object worktrees/auth/HEAD\nerror: did not send all").is_contention
    assert not GitError("", stderr="fatal: a branch named 'x' already exists").is_contention
