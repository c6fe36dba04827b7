"""What ``relaykit doctor`` says of the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from anyio import to_thread

from relaykit.clock import Clock
from relaykit.hooks.registration import Check, Finding, Surroundings, Verdict
from relaykit_gateway.token import token_path
from relaykit_gateway.token_file import TokenFile, TokenFileError, tokens_path


class TokenCheck:
    """Looks at the files in which tokens are kept, and changes nothing: it reads none that it would have to mend."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._own = token_path(state_dir)
        self._named = TokenFile(tokens_path(state_dir))
        self._clock = clock

    def check(self) -> Check:
        """Return it as a check."""
        return Check(name="tokens", look=self._look)

    async def _look(self, _surroundings: Surroundings) -> Sequence[Finding]:
        return await to_thread.run_sync(lambda: list(self._findings()))

    def _findings(self) -> Iterator[Finding]:
        is_open = [path for path in (self._own, self._named.path) if _is_open_to_others(path)]
        for path in is_open:
            yield Finding(
                verdict=Verdict.WARNING,
                what=f"others than you may open {path}",
                fix=f"chmod 600 {path}; if somebody may have read it, delete it, and give out new tokens",
            )
        if self._named.path in is_open:
            return
        try:
            tokens = self._named.read()
        except TokenFileError as error:
            yield Finding(verdict=Verdict.TROUBLE, what=str(error))
            return
        now = self._clock.now()
        expired = [token.name for token in tokens if token.has_expired(now)]
        yield Finding(verdict=Verdict.OK, what=f"named tokens: {len(tokens)}")
        if expired:
            yield Finding(
                verdict=Verdict.WARNING,
                what=f"tokens that have expired: {', '.join(expired)}",
                fix=f"relaykit tokens revoke {expired[0]}",
            )


def _is_open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:  # there is none; or whoever reads it says what is wrong
        return False
