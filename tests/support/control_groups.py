"""Control groups for tests: the kernel's own where they can be had, and directories that look like them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relaykit.ids import SystemIds
from relaykit_acp.cgroups import own_group


@contextmanager
def real_base() -> Iterator[Path]:
    """Make a group of the kernel's, below our own. It has no controllers: this process would have to move for those.

    Where there is none to be had, the test is skipped, and says why.
    """
    own = own_group()
    if own is None:
        pytest.skip("NOT PROVED HERE: cgroup2 is not mounted, so nothing joins a real control group")
    if not os.access(own, os.W_OK):
        pytest.skip(f"NOT PROVED HERE: {own} is not ours to divide, so nothing joins a real control group")
    base = own / f"relaykit-test-{SystemIds().new_id()}"
    base.mkdir()
    try:
        yield base
    finally:
        base.rmdir()


def fake_base(path: Path, *, controllers: str = "cpuset cpu io memory pids", inside: str = "") -> Path:
    """Make a directory that is laid out like a group with all controllers. Nothing is enforced in it, or counted."""
    path.mkdir()
    (path / "cgroup.controllers").write_text(f"{controllers}\n")
    (path / "cgroup.subtree_control").write_text("\n")
    (path / "cgroup.procs").write_text(inside)
    return path


def members(group: Path) -> list[int]:
    """Return the processes in a group."""
    return [int(line) for line in (group / "cgroup.procs").read_text().split()]
