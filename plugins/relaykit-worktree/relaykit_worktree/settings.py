"""``[plugins.worktree]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

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


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class OnDirty(StrEnum):
    """What becomes of a worktree with work in it."""

    KEEP = "keep"
    PARK = "park"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorktreeSettings:
    """How worktrees are made, and what may go with them."""

    base: str = setting(
        "HEAD",
        help="the revision from which a role's new branch starts: a branch, a tag, a commit, `origin/main` … It is "
        "resolved to a commit once, when the session begins",
    )
    fetch: bool = setting(
        False,
        help="fetch `base` first, which is a remote's branch then (`origin/main`): that branch alone. If it cannot be "
        "fetched the session does not start: who asks for the newest is not to work on something old unawares",
    )
    setup: tuple[str, ...] = setting(
        (),
        help='program and arguments to run in a new worktree before its agent starts, as `["npm", "ci"]`; no shell',
    )
    setup_timeout: float = setting(600.0, help="seconds that `setup` may take")
    setup_env: tuple[str, ...] = setting((), help="names of environment variables to pass on to `setup`")
    on_dirty: OnDirty = setting(
        OnDirty.KEEP,
        help="what becomes of a worktree with work in it: `keep`; `park`: all of it goes to a ref, and stays there; "
        "`remove`: the same, for `parked_days`",
    )
    parked_days: float = setting(
        30.0, help="days after which `relaykit worktrees gc` may drop what `remove` has parked; 1 or more"
    )
    disposable: tuple[str, ...] = setting(
        DISPOSABLE,
        help="names of *ignored* files and directories that may be deleted with a worktree, as tools make them again: "
        "a path is disposable if any part of it has such a name; `*` and `?` match. Yours replaces the list",
    )
    git_timeout: float = setting(
        60.0,
        help="seconds that one git command may take, waiting for git's own locks included, also for a repository "
        "in which another relay, or `relaykit worktrees`, is at work. A checkout is one command: raise it for very "
        "large ones",
    )

    def __post_init__(self) -> None:
        for name in ("setup_timeout", "git_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
        if self.parked_days < 1:
            raise ValueError(
                "parked_days must be 1 or more: nothing is to be gone before somebody can miss it"
            )
        if self.setup and not self.setup[0]:
            raise ValueError("setup names no program")
        if wrong := [name for name in self.setup_env if _VARIABLE.fullmatch(name) is None]:
            # Somebody who writes NAME=value here has written a secret: only the name is repeated.
            raise ValueError(
                f"setup_env lists names of variables, without values: {wrong[0].partition('=')[0]!r} is not one"
            )
