from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import orphanage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    environ = {**os.environ, "PYTHONPATH": str(Path(orphanage.__file__).parents[1])}
    command = [sys.executable, orphanage.__file__, request.param]
    done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_an_orphan_that_has_ended_is_reaped(seen: dict[str, Any]) -> None:
    assert seen["adopted"]
    assert seen["orphan was reaped"]


def test_one_that_has_daemonised_is_reaped_when_nobody_has_asked_for_it(seen: dict[str, Any]) -> None:
    assert seen["daemon was a zombie"]
    assert seen["daemon is a zombie"] is False


def test_whoever_asks_for_a_child_gets_its_exit_status(seen: dict[str, Any]) -> None:
    assert seen["exit codes"] == {"in our session": 7, "in its own": 8, "ChildProcess": 9}


def test_orphans_that_live_are_ended_with_the_block(seen: dict[str, Any]) -> None:
    assert len(seen["living"]) == 2
    for pid in seen["living"]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)
