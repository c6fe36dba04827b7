"""Agents with every fault that is to leave nothing behind, and a look at what they have left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support import faulty_agent

_TAG = "fault="


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of agent.

    :param flags: of `faulty_agent`.
    :param prompt: what makes it misbehave, once it is there: a turn that has no end.
    :param short_prompt: the same, with an end.
    :param wrapped: a shell runs it as a child, as npx does.
    """

    name: str
    flags: tuple[str, ...] = ()
    prompt: str = ""
    short_prompt: str = ""
    wrapped: bool = False

    def command(self, *flags: str) -> Sequence[str]:
        """Return its command, with more flags."""
        command = (*faulty_agent.COMMAND, f"{_TAG}{self.name}", *self.flags, *flags)
        return ("sh", "-c", '"$@"; true', "sh", *command) if self.wrapped else command

    def command_that_never_answers(self) -> Sequence[str]:
        """Return the command of one that misbehaves before it could answer anything."""
        return self.command("--no-initialize", *(("--do", self.prompt) if self.prompt else ()))


FAULTS = (
    Fault(name="exits-on-eof"),
    Fault(name="ignores-eof", flags=("--ignore-eof",)),
    Fault(name="ignores-eof-and-term", flags=("--ignore-signals",)),
    Fault(name="double-forked-child", flags=("--do", "/children 1 orphan")),
    Fault(name="setsid-grandchild", flags=("--do", "/children 1 setsid")),
    Fault(name="wrapped", flags=("--ignore-eof",), wrapped=True),
    Fault(name="crashes-at-random", flags=("--crash-within", "1.5")),
    Fault(name="never-initializes", flags=("--no-initialize",)),
    Fault(name="never-answers", prompt="/deaf"),
    Fault(name="floods-stdout", prompt="/flood 100000 garbage", short_prompt="/flood 5 garbage"),
    Fault(name="floods-stderr", prompt="/flood 100000 stderr", short_prompt="/flood 5 stderr"),
    Fault(name="leaves-50-children", flags=("--do", "/children 50")),
)


def agents_toml(*, spawning: bool = False) -> str:
    """Return the settings of all of them.

    :param spawning: none is ever ready.
    """
    commands = {
        fault.name: fault.command_that_never_answers() if spawning else fault.command() for fault in FAULTS
    }
    return "".join(
        f"[agents.{name}]\ncommand = {json.dumps(list(command))}\n" for name, command in commands.items()
    )


def processes_left(node: str) -> dict[str, list[int]]:
    """Return the living processes that the agents of a relay are and have started, by the agent's fault."""
    left: dict[str, list[int]] = {}
    for pid in _pids():
        with suppress(OSError):  # it has ended meanwhile, or is not ours to look at
            directory = Path(f"/proc/{pid}")
            if f"RELAYKIT_NODE={node}".encode() in (directory / "environ").read_bytes().split(b"\0"):
                arguments = (directory / "cmdline").read_bytes().decode().split("\0")
                tags = [argument.removeprefix(_TAG) for argument in arguments if argument.startswith(_TAG)]
                left.setdefault(tags[0] if tags else " ".join(arguments), []).append(pid)
    return left


def zombies_of(parent: int) -> list[int]:
    """Return the dead children of a process that it has not reaped."""
    found = []
    for pid in _pids():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == parent:
                found.append(pid)
    return found


def descriptors() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _pids() -> Iterator[int]:
    yield from (int(path.name) for path in Path("/proc").glob("[0-9]*"))
