"""``relaykit metrics``: the dashboard and the rules that come with this plugin, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relaykit.errors import RelaykitError
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="where to write them; files of their names are replaced")


def _run(arguments: argparse.Namespace) -> int:
    from relaykit_prometheus.assets import assets

    directory: Path = arguments.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in assets().items():
            (directory / name).write_bytes(content)
            print(directory / name)  # noqa: T201 -- a command prints
    except OSError as error:
        raise RelaykitError(f"the files cannot be written to {str(directory)!r}: {error.strerror}") from error
    return 0


METRICS = Command(
    name="metrics",
    help="write the dashboard for Grafana and the rules for Prometheus",
    run=_run,
    configure=_configure,
)
