"""An agent that says again what a recorded one said: ``golden_player.py RECORDING HEARD``.

It goes through the recording in step: where the client spoke, it waits for a line of the same kind; where the
agent spoke, it says the same, byte for byte but for the ids of the requests that it answers. What it hears is
written to HEARD. Standard library only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


class OutOfStep(Exception):
    """The client says something else than the recorded one did."""


def play(recording: Path, heard: Path) -> None:
    """Play a recording, then wait for the end of the input.

    :raises OutOfStep: with what was heard and what was recorded.
    """
    ids: dict[str, object] = {}
    with heard.open("ab") as written:
        for spoken in map(json.loads, recording.read_text().splitlines()):
            recorded = json.loads(spoken["line"])
            if spoken["direction"] == "client":
                line = sys.stdin.buffer.readline()
                if not line:
                    return
                written.write(line)
                written.flush()
                message = json.loads(line)
                if kind(message) != kind(recorded):
                    raise OutOfStep(f"heard {line!r}, recorded was {spoken['line']!r}")
                if "method" in recorded and "id" in recorded:
                    ids[json.dumps(recorded["id"])] = message["id"]
            else:
                said = spoken["line"] if "method" in recorded else answer(spoken["line"], ids)
                sys.stdout.buffer.write(f"{said}\n".encode())
                sys.stdout.buffer.flush()
    sys.stdin.buffer.read()


def kind(message: dict[str, object]) -> object:
    """Return what has to be equal: the method, or the id of the answered question and how it is answered."""
    return message.get("method") or (message["id"], "error" in message)


def answer(line: str, ids: dict[str, object]) -> str:
    """Return a recorded answer with the id of the request that was heard."""
    recorded = json.loads(line)
    number = json.dumps(recorded["id"])
    answered = line.replace(f'"id":{number}', f'"id":{json.dumps(ids[number])}', 1)
    if json.loads(answered) != {**recorded, "id": ids[number]}:
        raise OutOfStep(f"cannot put another id into {line!r}")
    return answered


if __name__ == "__main__":
    play(Path(sys.argv[1]), Path(sys.argv[2]))
