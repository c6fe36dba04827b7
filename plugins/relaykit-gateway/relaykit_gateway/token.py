"""The relay's own token: made once, and kept. Whoever knows it may do everything."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from tempfile import mkstemp

from relaykit.errors import RelaykitError
from relaykit_gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

_PRIVATE = 0o600


def token_path(state_dir: Path) -> Path:
    """Return where a relay that was given no token keeps its own."""
    return state_dir / "gateway" / "token"


def load_token(settings: GatewaySettings, state_dir: Path) -> str | None:
    """Return the token, making it at the first time; None if clients need none.

    Blocks for a moment on the disk: it is called once, at start.

    :raises RelaykitError: the file cannot be read or made, or is empty.
    """
    if not settings.auth:
        return None
    if settings.token:
        return settings.token
    path = token_path(state_dir)
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        raise RelaykitError(f"the token cannot be kept in {str(path)!r}: {error.strerror}") from error


def _make(path: Path) -> None:
    """Put a new token there, unless somebody else is faster. The file is never seen half written."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = mkstemp(prefix="token.", dir=path.parent)  # for this user's eyes alone
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
        try:
            path.hardlink_to(new)
        except FileExistsError:
            return
    finally:
        new.unlink()


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        logger.warning("the token file %s could be read by other users: it is made private again", path)
        path.chmod(_PRIVATE)
    token = path.read_text(encoding="ascii").strip()
    if not token:
        raise RelaykitError(f"the token file {str(path)!r} is empty: delete it, and a new one is made")
    return token
