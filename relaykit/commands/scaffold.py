"""Scaffold: the package of a new plugin, from the templates beside this file."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from string import Template

from relaykit.errors import RelaykitError
from relaykit.hooks import API_VERSION
from relaykit.hooks.loader import GROUP

_TEMPLATES = Path(__file__).with_name("templates")
_SUFFIX = ".template"
_USE = "use.md"

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_LONGEST = 24  # the templates' lines are short enough for that

_TAKEN = {
    "relaykit": "relaykit itself",
    "memory": "relaykit's own storage",
    "directory": "relaykit's own workspace",
    "fake": "the agent of relaykit.testing",
    "recording": "the hooks of relaykit.testing",
}


def write_package(name: str, kind: str, directory: Path) -> Path:
    """Write the package ``relaykit-NAME`` into a directory, whole or not at all, and return where it is.

    :param kind: ``storage``, ``cleaner``, ``launcher``, ``workspace`` or ``hooks``.
    :raises RelaykitError: the name cannot be used, or the package cannot be written: the message says what to do.
    """
    _check_name(name)
    package = directory / f"relaykit-{name}"
    if not directory.is_dir():
        raise RelaykitError(f"{str(directory)!r} is not a directory: make it, or say another --directory")
    _check_free(package)
    try:
        # Made beside its place, so that it gets there in one step.
        with tempfile.TemporaryDirectory(prefix=f".{package.name}-", dir=directory) as scratch:
            begun = Path(scratch) / package.name
            for path, text in _files(kind, _values(name, kind)):
                (begun / path).parent.mkdir(parents=True, exist_ok=True)
                (begun / path).write_text(text, encoding="utf-8")
            _check_free(package)
            begun.rename(package)
    except OSError as error:
        raise RelaykitError(f"cannot write {str(package)!r}: {error.strerror}") from error
    return package


def _check_name(name: str) -> None:
    if name.startswith(("relaykit-", "relaykit_")):
        rest = name[len("relaykit-") :]
        raise RelaykitError(f"leave out 'relaykit': the plugin is called {rest!r}, and its package {name!r}")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise RelaykitError(
            f"{name!r} is no name for a plugin: use up to {_LONGEST} of a-z, 0-9 and, between them, '-', "
            "beginning with a letter"
        )
    if name in _TAKEN:
        raise RelaykitError(f"the name {name!r} is taken by {_TAKEN[name]}: choose another one")
    for installed in metadata.entry_points(group=GROUP, name=name):
        whose = installed.dist.name if installed.dist else installed.value
        raise RelaykitError(
            f"the name {name!r} is taken by {whose!r}, which is installed: choose another one"
        )


def _check_free(package: Path) -> None:
    if package.exists() or package.is_symlink():
        raise RelaykitError(
            f"there is a {str(package)!r} already: remove it, or choose another name or --directory"
        )


def _values(name: str, kind: str) -> Mapping[str, str]:
    module = f"relaykit_{name.replace('-', '_')}"
    values = {
        "name": name,
        "module": module,
        "package": f"relaykit-{name}",
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "What": "Hooks" if kind == "hooks" else f"A {kind}",
        "api": str(API_VERSION),
        "relaykit": metadata.version("relaykit"),
    }
    return {**values, "use": _fill(_TEMPLATES / kind / (_USE + _SUFFIX), values).rstrip()}


def _files(kind: str, values: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield each file of the package: its path in there, and its text."""
    for root in (_TEMPLATES / "common", _TEMPLATES / kind):
        for template in sorted(root.rglob(f"*{_SUFFIX}")):
            path = template.relative_to(root).with_suffix("")
            if path.name == _USE:
                continue
            if path.name == "gitignore":  # under that name it would hold for the templates themselves
                path = path.with_name(".gitignore")
            parts = (values["module"] if part == "module" else part for part in path.parts)
            yield Path(*parts), _fill(template, values)


def _fill(template: Path, values: Mapping[str, str]) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(values)
