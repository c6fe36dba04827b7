"""Named tokens, as ``relaykit tokens`` makes and revokes them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from relaykit.clock import SystemClock
from relaykit.relay.access import Access, Role
from relaykit_gateway.token_file import NamedToken, TokenFile, digest_of, new_token, tokens_path


def add_token(
    state_dir: Path, name: str, access: Access | None = None, *, expires: datetime | None = None
) -> str:
    """Add a token to a relay's, and return it."""
    secret = new_token()
    token = NamedToken(
        name=name,
        digest=digest_of(secret),
        access=access or Access(),
        created_at=SystemClock().now(),
        expires_at=expires,
    )
    TokenFile(tokens_path(state_dir)).add(token)
    return secret


def revoke_token(state_dir: Path, name: str) -> None:
    """Take a token back."""
    TokenFile(tokens_path(state_dir)).revoke(name)


OBSERVER = Access(role=Role.OBSERVER)
ANN = Access(owner="ann")
