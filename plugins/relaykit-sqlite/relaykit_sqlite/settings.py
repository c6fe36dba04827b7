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
        help="the database; by default `sqlite/relay.db` in the state directory. The directory of another must exist, "
        "**on a local disk**: over NFS, SMB and the like locks do not hold, and a write-ahead log needs memory that "
        "its users share",
    )
    synchronous: Literal["full", "normal"] = setting(
        "full", help='when the disk must have it: `"full"` at each commit, `"normal"` at each checkpoint'
    )
    busy_timeout: float = setting(
        5.0,
        help="seconds to wait for another process that holds SQLite's lock, such as a shell with an open transaction",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.busy_timeout <= 3600:  # noqa: PLR2004 -- an hour
            raise ValueError("busy_timeout is 0 to 3600 seconds")


def database_path(settings: SqliteSettings, state_dir: Path) -> Path:
    """Return where the database is, or is to be."""
    return settings.path or state_dir / "sqlite" / "relay.db"
