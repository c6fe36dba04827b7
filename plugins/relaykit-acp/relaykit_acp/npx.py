"""Commands that run a program of an npm package through npx."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Of a registry, and nothing else: a folder, an archive or a repository has no name before it was fetched.
_PACKAGE = re.compile(r"((?:@[a-z0-9-~][a-z0-9-._~]*/)?[a-z0-9-~][a-z0-9-._~]*)(?:@[^@/:\s]+)?")
_YES = frozenset({"-y", "--yes"})
_PACKAGE_OPTION = frozenset({"-p", "--package"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NpxCommand:
    """``npx [--yes] PACKAGE [ARGUMENT …]`` or ``npx [--yes] --package PACKAGE [--] PROGRAM [ARGUMENT …]``.

    :param npx: npx itself, as it was named.
    :param package: with its version, if one was named: ``@scope/name@1``.
    :param name: without it.
    :param program: of the package; None: the one that npx would choose.
    """

    npx: str
    package: str
    name: str
    program: str | None
    arguments: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """The package's name without its scope, by which npx chooses among several programs."""
        return self.name.rpartition("/")[2]


def parse_npx(command: Sequence[str]) -> NpxCommand | None:
    """Return what a command has npx run; None: it is no npx, or has it do something else than these two forms."""
    if os.path.basename(command[0]) != "npx":  # noqa: PTH119 -- asked at each launch, and a path costs ten times that
        return None
    words = list(command[1:])
    package = program = None
    while words and words[0].startswith("-"):
        option, _, value = words.pop(0).partition("=")
        if option in _PACKAGE_OPTION and package is None and (value or words):
            package = value or words.pop(0)
        elif option == "--":
            break
        elif option not in _YES or value:
            return None
    if words and package is not None:
        program = words.pop(0)
    elif words:
        package = words.pop(0)
    else:
        return None
    found = _PACKAGE.fullmatch(package)
    if found is None:
        return None
    return NpxCommand(npx=command[0], package=package, name=found[1], program=program, arguments=tuple(words))
