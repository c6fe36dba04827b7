"""What can be set in ``[plugins.audit]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relaykit.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """``[plugins.audit]``."""

    path: Path | None = setting(
        None,
        help="the file, of mode 0600; by default `audit/audit.jsonl` in the state directory. The "
        "directory of another must exist",
    )
    max_bytes: int = setting(16 * 1024 * 1024, help="bytes after which a new file is begun; 0 for never")
    keep: int = setting(9, help="full files that are kept: `audit.jsonl.1` is the latest")
    sync: bool = setting(False, help="wait for the disk after each record")

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ValueError("max_bytes must be 0 or more")
        if not 0 <= self.keep <= 10_000:  # noqa: PLR2004 -- each is renamed at a rotation
            raise ValueError("keep must be 0 to 10000")
