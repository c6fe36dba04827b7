"""``[plugins.sqlite]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relaykit.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteSettings:
    """Where the database is, and how it is written."""

    path: Path | None = setting(
        None,
        help="the database, on a local disk, in a directory that exists; by default in the state directory",
    )
    synchronous: Literal["full", "normal"] = setting(
        "full", help="when the disk must have it: at each commit, or (normal) at each checkpoint"
    )
    busy_timeout: float = setting(
        5.0, help="seconds to wait for another process that holds the database's lock"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.busy_timeout <= 3600:  # noqa: PLR2004 -- an hour
            raise ValueError("busy_timeout is 0 to 3600 seconds")


def database_path(settings: SqliteSettings, state_dir: Path) -> Path:
    """Return where the database is, or is to be."""
    return settings.path or state_dir / "sqlite" / "relay.db"
