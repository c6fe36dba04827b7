"""Run an agent, and write down every line that goes in and out: ``stdio_tee.py FILE COMMAND …``.

The file has one JSON object a line: ``{"direction": "agent" | "client", "line": what that side said}``. A line is
written down before it is passed on, so that an answer never stands before its question.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO


class Tee:
    """What both directions share: the file."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def copy(self, direction: str, source: IO[bytes], target: IO[bytes]) -> None:
        """Pass lines on until there are no more."""
        for line in source:
            with self._lock:
                self._file.write(
                    json.dumps({"direction": direction, "line": line.decode().rstrip("\n")}) + "\n"
                )
                self._file.flush()
            target.write(line)
            target.flush()
        target.close()


def main(file: str, *command: str) -> int:
    """Run until the agent ends, and return its exit code."""
    with Path(file).open("w") as opened:
        tee = Tee(opened)
        agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert agent.stdin is not None
        assert agent.stdout is not None
        # Nobody waits for this one: it may be inside a read that does not end.
        threading.Thread(target=tee.copy, args=("client", sys.stdin.buffer, agent.stdin), daemon=True).start()
        tee.copy("agent", agent.stdout, sys.stdout.buffer)
        return agent.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
