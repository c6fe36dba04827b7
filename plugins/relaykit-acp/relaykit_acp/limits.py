"""Limits: what one agent may use, with all that it starts, as settings say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relaykit_acp.settings import AcpSettings

_SIZE = re.compile(r"(\d+)([KMGT]?)", re.ASCII)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

_CPU_PERIOD = 100_000
"""Microseconds, in each of which an agent may use its share."""
LEAST_CPU = 0.01
"""The kernel knows no shorter share than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit that is set.

    :param setting: its key in ``[plugins.acp]``.
    :param value: as settings have it.
    :param controller: the cgroup controller that enforces it.
    :param files: what is written for it into which files of a group.
    :param optional_files: the same, of files that not every kernel has.
    """

    setting: str
    value: str
    controller: str
    files: Mapping[str, str]
    optional_files: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.setting} = {self.value}"


def limits_of(settings: AcpSettings) -> tuple[Limit, ...]:
    """Return the limits that ``[plugins.acp]`` sets."""
    found = []
    if settings.memory_max:
        found.append(
            Limit(
                setting="memory_max",
                value=f'"{settings.memory_max}"',
                controller="memory",
                files={"memory.max": str(size_of(settings.memory_max))},
                # No way round it into swap; and over it the whole agent ends, not a process of its somewhere.
                optional_files={"memory.swap.max": "0", "memory.oom.group": "1"},
            )
        )
    if settings.processes_max:
        found.append(
            Limit(
                setting="processes_max",
                value=str(settings.processes_max),
                controller="pids",
                files={"pids.max": str(settings.processes_max)},
                optional_files={},
            )
        )
    if settings.cpu_max:
        found.append(
            Limit(
                setting="cpu_max",
                value=f"{settings.cpu_max:g}",
                controller="cpu",
                files={"cpu.max": f"{round(settings.cpu_max * _CPU_PERIOD)} {_CPU_PERIOD}"},
                optional_files={},
            )
        )
    return tuple(found)


def size_of(text: str) -> int:
    """Return the bytes that are meant: ``"2G"``, ``"512M"``, ``"1073741824"``; K, M, G and T are powers of 1024.

    :raises ValueError: it means none.
    """
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise ValueError(f'{text!r} is no size: write bytes, or "512M", "2G"')
    return int(match[1]) << (10 * _UNITS[match[2]])
