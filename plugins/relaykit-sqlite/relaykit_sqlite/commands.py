"""``relaykit backup``. Nothing heavy is imported here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

    from relaykit.commands.invocation import Invocation


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="where to")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")


def _run(arguments: argparse.Namespace) -> int:
    from relaykit_sqlite.backup import back_up
    from relaykit_sqlite.problems import NAME
    from relaykit_sqlite.settings import SqliteSettings, database_path

    settings = cast("Invocation", arguments).load_settings()
    own = settings.plugin(NAME, SqliteSettings)
    database = database_path(own, settings.state_dir)
    size = back_up(database, arguments.file, force=arguments.force, wait=own.busy_timeout)
    sys.stdout.write(f"{database}: copied and checked, {size:,} bytes in {arguments.file}\n")
    return 0


BACKUP = Command(
    name="backup", help="copy the SQLite database, also while a relay runs", configure=_configure, run=_run
)
