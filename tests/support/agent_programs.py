"""Directories of programs, to stand for PATH: agents that are the echo agent, or that do what a script says."""

from __future__ import annotations

from pathlib import Path

from relaykit_acp.finding import ECHO

ECHO_SCRIPT = f'exec {" ".join(ECHO.command)} "$@"'
"""What a program does that is the echo agent. It ignores arguments that the echo agent does not know."""


def install(directory: Path, *programs: str, script: str = ECHO_SCRIPT) -> Path:
    """Put shell scripts of these names into a directory, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in programs:
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return directory
