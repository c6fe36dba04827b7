"""What programs that we start get of our own environment: a short list, and never more."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TERM",
        "TMPDIR",
        "TZ",
        "USER",
    }
)
_PREFIXES = ("LC_", "XDG_")


def safe_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment holds no secrets, and what nearly every program needs."""
    return {name: value for name, value in ours.items() if is_safe(name)}


def is_safe(name: str) -> bool:
    """Tell whether a variable is one that every program gets: it is no secret."""
    return name in _NAMES or name.startswith(_PREFIXES)
