"""A lock that somebody holds for a moment is waited for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relaykit import file_lock

_HOLD = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_who_lets_go_in_time_is_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process, (tmp_path / "lock").open("a") as file:
        with pytest.raises(BlockingIOError):
            file_lock.lock(file.fileno(), patience=0)
        assert process.stdin is not None
        process.stdin.close()  # it takes some milliseconds to end
        file_lock.lock(file.fileno(), patience=30)


def test_who_does_not_is_not_waited_for_any_longer(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process, (tmp_path / "lock").open("a") as file:
        with pytest.raises(BlockingIOError):
            file_lock.lock(file.fileno(), patience=0.05)
        process.kill()
