"""Each example runs as it stands."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_walkthrough() -> None:
    assert run("walkthrough.py") == "['close_agent: DONE', 'close_connection: DONE']\n"


def test_echo_messages() -> None:
    assert run("echo_messages.py") == "connection:established\nsession:create auth True\n"
