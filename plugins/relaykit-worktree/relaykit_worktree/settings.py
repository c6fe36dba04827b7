"""``[plugins.worktree]``."""

from __future__ import annotations

from dataclasses import dataclass

from relaykit.settings import setting

DISPOSABLE = (
    "node_modules",
    ".venv",
    "venv",
    "__pycache__",
    "*.pyc",
    "*.egg-info",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    ".tox",
    ".nox",
    "target",
    "dist",
    "build",
    ".gradle",
    ".next",
    ".nuxt",
    ".turbo",
    ".cache",
    ".DS_Store",
)
"""What tools make again by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorktreeSettings:
    """How worktrees are made, and what may go with them."""

    base: str = setting("HEAD", help="the revision from which a role's new branch starts")
    disposable: tuple[str, ...] = setting(
        DISPOSABLE,
        help="names of ignored files and directories that may be deleted with a worktree; `*` and `?` match",
    )
    git_timeout: float = setting(
        60.0, help="seconds that one git command may take, waiting for git's locks included"
    )
