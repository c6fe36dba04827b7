"""Whether a program is still the one that it was, for who remembers what it said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int], ...]


def fingerprint(command: Sequence[str], environment: Mapping[str, str]) -> Fingerprint:
    """Return what changes when a command's program is replaced, or a file that it names: a script, a settings file.

    Not the time of the last change: npm gives all files of all packages the same one. Where nothing is found it is
    empty. Blocks for as long as the files' metadata takes.

    :param environment: what the command will run in.
    """
    return tuple(_facts(command, environment))


def _facts(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[str, int, int]]:
    program = shutil.which(command[0], path=environment.get("PATH", os.defpath))
    for word in (program, *command[1:]):
        if word is None or not word.startswith(os.sep):
            continue
        try:
            path = Path(word).resolve(strict=True)
            status = path.stat()
        except OSError:  # an argument that is no path, after all
            continue
        yield str(path), status.st_ino, status.st_ctime_ns
