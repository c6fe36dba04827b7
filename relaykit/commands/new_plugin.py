"""``relaykit new-plugin``: a package to begin a plugin with, and its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

_KINDS = {
    "storage": "keeps sessions and transcripts",
    "cleaner": "releases something at the end of each session",
    "launcher": "starts agents of another kind",
    "workspace": "gives agents a place to work in",
    "hooks": "hears what happens, and may refuse some of it",
}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the plugin's name: the package is relaykit-NAME")
    kinds = parser.add_mutually_exclusive_group(required=True)
    for kind, what in _KINDS.items():
        kinds.add_argument(
            f"--{kind}", dest="kind", action="store_const", const=kind, help=f"one that {what}"
        )
    parser.add_argument("--directory", metavar="D", default=".", help="where to put the package (here)")


def _run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from relaykit.commands.scaffold import write_package

    package = write_package(arguments.name, arguments.kind, Path(arguments.directory))
    print(f"{package}: written; it goes on with")
    for command in (f"cd {package}", "uv pip install --editable . --group dev", "pytest"):
        print(f"  {command}")
    return 0


NEW_PLUGIN = Command(
    name="new-plugin",
    help="write a package to begin a plugin of your own with",
    configure=_configure,
    run=_run,
)
