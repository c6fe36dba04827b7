"""TokenFile: the tokens that people have been given, each with a name, and with what it may."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Literal

import msgspec

from relaykit.clock import Clock
from relaykit.errors import RelaykitError
from relaykit.relay.access import Access, Role
from relaykit.relay.deciders import AGENT, RELAY

logger = logging.getLogger(__name__)

_PRIVATE = 0o600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_BITS = 256
_TAKEN = frozenset({RELAY, AGENT})
_PREFIX = "rkt_"  # so that scanners for secrets know one, and that none looks like an option


class TokenFileError(RelaykitError):
    """The file of the tokens cannot be read, or not be written."""


class DuplicateToken(RelaykitError):
    """There is a token of this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a token {name!r} already: choose another name, or revoke it first")
        self.name = name


class UnknownToken(RelaykitError, LookupError):
    """There is no token of this name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no token {name!r}; there are: {', '.join(known) or 'none'}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedToken:
    """A token as it is kept: what it may, and how it is recognised.

    :param digest: SHA-256 of the token, in hex. Passwords need a slow, salted hash because people choose them
        from few; of 256 random bits nobody tries a noticeable part, however fast the hash is, and no two are alike.
    :param expires_at: from this moment on it is worth nothing.
    """

    name: str
    digest: str = field(repr=False)
    access: Access
    created_at: datetime
    expires_at: datetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """Tell whether it is worth nothing any more."""
        return self.expires_at is not None and self.expires_at <= now


# What we do not know, a newer version may have written, and it may hold the token to less: nothing is let in then.
class _Stored(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    name: str
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    role: Role
    owner: Annotated[str, msgspec.Meta(min_length=1)]
    projects: list[str] | None
    sessions: list[str] | None
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None


class _Contents(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    tokens: list[_Stored]


def tokens_path(state_dir: Path) -> Path:
    """Return where the named tokens of a relay are kept."""
    return state_dir / "gateway" / "tokens.json"


def new_token() -> str:
    """Return a fresh token of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_BITS // 8)


def digest_of(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def check_token_name(name: str) -> str:
    """Return a name that a token may have.

    :raises RelaykitError: it names none, or in transcripts somebody else goes by it.
    """
    if name in _TAKEN:
        raise RelaykitError(
            f"no token is called {name!r}: transcripts say so of who is no client; use another name"
        )
    return check_name(name, what="token")


def check_name(name: str, *, what: str) -> str:
    """Return a name that is one.

    :param what: what it names, for the error.
    :raises RelaykitError: it is not.
    """
    if _NAME.fullmatch(name) is None:
        raise RelaykitError(
            f"{name!r} names no {what}: use 1 to 64 of a-z, A-Z, 0-9, '.', '_', '@' and '-', "
            "beginning with a letter or a digit"
        )
    return name


class TokenFile:
    """The file, for those who change it and those who read it. All methods block for a moment on the disk.

    A reader sees it as it was before a change or after it: it is replaced whole. Those who change it wait for
    each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> tuple[int, ...] | None:
        """Return what differs once the file was changed; None if there is none.

        :raises TokenFileError: it cannot be told.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)

    def read(self) -> Sequence[NamedToken]:
        """Return the tokens, in order of their names; none if there is no file.

        :raises TokenFileError: it cannot be read, or holds anything that is not understood.
        """
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    logger.warning(
                        "the token file %s was open to other users: it is made private again", self.path
                    )
                    os.fchmod(file.fileno(), _PRIVATE)
                raw = file.read()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        try:
            contents = msgspec.json.decode(raw, type=_Contents)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise self._unreadable(str(error)) from error
        tokens = sorted(map(_token, contents.tokens), key=lambda token: token.name)
        if len({token.name for token in tokens}) < len(tokens):
            raise self._unreadable("two tokens have the same name")
        return tokens

    def add(self, token: NamedToken) -> None:
        """Add a token; a relay that runs knows it at once.

        :raises DuplicateToken: its name is taken.
        :raises TokenFileError: the file cannot be read, or not be written.
        """
        with self._changing():
            tokens = self.read()
            if any(each.name == token.name for each in tokens):
                raise DuplicateToken(token.name)
            self._write([*tokens, token])

    def revoke(self, name: str) -> None:
        """Forget a token; a relay that runs lets it in no more, and closes what it has opened.

        :raises UnknownToken: there is none such.
        :raises TokenFileError: the file cannot be read, or not be written.
        """
        with self._changing():
            tokens = self.read()
            kept = [token for token in tokens if token.name != name]
            if len(kept) == len(tokens):
                raise UnknownToken(name, [token.name for token in tokens])
            self._write(kept)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep others from changing the file meanwhile. The lock is a file beside it, which is never replaced."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise TokenFileError(
                f"the token file {str(self.path)!r} cannot be written: {error.strerror or error}"
            ) from error

    def _write(self, tokens: Sequence[NamedToken]) -> None:
        contents = _Contents(version=1, tokens=[_stored(token) for token in tokens])
        descriptor, name = mkstemp(prefix="tokens.", dir=self.path.parent)  # for this user's eyes alone
        new = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(contents)) + b"\n")
                file.flush()
                os.fsync(file.fileno())  # that a token was revoked must outlive a power cut
            new.replace(self.path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _unreadable(self, why: str) -> TokenFileError:
        return TokenFileError(
            f"the token file {str(self.path)!r} cannot be read: {why}. Correct it; or delete it, "
            "which revokes every token that was added"
        )


class KnownTokens:
    """The tokens of a file as it is now, for a relay that is asked often.

    While the file cannot be read, nobody is known.
    """

    def __init__(self, file: TokenFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._signature: tuple[int, ...] | None = None
        self._tokens: Sequence[NamedToken] = ()
        self._error: TokenFileError | None = None

    def find(self, token: str) -> NamedToken | None:
        """Return what is kept of a token that somebody presents, or None.

        :raises TokenFileError: it cannot be told.
        """
        digest = digest_of(token)
        found = None
        for each in self._current():  # all, and each in constant time: how long it takes tells nothing
            if hmac.compare_digest(each.digest, digest):
                found = each
        return None if found is None or found.has_expired(self._clock.now()) else found

    def why_not(self, token: NamedToken) -> str:
        """Return, for people, why a token that was found earlier is worth nothing now; empty if it still is."""
        try:
            known = token in self._current()
        except TokenFileError:
            return "the relay cannot read its tokens"
        if not known:
            return "the token was revoked"
        return "the token has expired" if token.has_expired(self._clock.now()) else ""

    def _current(self) -> Sequence[NamedToken]:
        try:
            signature = self._file.signature()
            if signature != self._signature or self._error is not None:
                self._tokens = self._file.read()
                self._signature = signature  # of before it was read: what is changed meanwhile is read again
        except TokenFileError as error:
            if str(error) != str(self._error):  # once, and not at every request
                logger.error("%s. Until then nobody comes in with such a token", error)  # noqa: TRY400 -- no bug
            self._error, self._tokens = error, ()
            raise
        self._error = None
        return self._tokens


def _token(stored: _Stored) -> NamedToken:
    access = Access(
        owner=stored.owner,
        role=stored.role,
        projects=None if stored.projects is None else frozenset(stored.projects),
        sessions=None if stored.sessions is None else frozenset(stored.sessions),
    )
    return NamedToken(
        name=stored.name,
        digest=stored.digest,
        access=access,
        created_at=stored.created_at,
        expires_at=stored.expires_at,
    )


def _stored(token: NamedToken) -> _Stored:
    access = token.access
    return _Stored(
        name=token.name,
        digest=token.digest,
        role=access.role,
        owner=access.owner,
        projects=None if access.projects is None else sorted(access.projects),
        sessions=None if access.sessions is None else sorted(access.sessions),
        created_at=token.created_at,
        expires_at=token.expires_at,
    )
