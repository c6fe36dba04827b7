"""Target: which relay is meant, and the token that it wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from relaykit.relay.running import read_running
from relaykit.settings import Settings
from relaykit_gateway.address import Address, ClientError, find_relay
from relaykit_gateway.settings import is_loopback

TOKEN_VARIABLE = "RELAYKIT_TOKEN"  # noqa: S105 -- its name, not its value

_NO_URL = urlsplit("")
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class BadTarget(ClientError):
    """What the command line says leads to no relay."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect.

    :param uri: of the relay's ``/acp``: ``ws`` or ``wss``.
    :param token: None where none is known.
    """

    uri: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for. Empty: the relay decides.

    :param url: of the relay; empty: the one that runs on the settings' state directory.
    """

    url: str = ""
    agent: str = ""
    project: str = ""
    role: str = ""
    token_file: str = ""


def find_target(wanted: Wanted, settings: Settings, environ: Mapping[str, str]) -> Target:
    """Return where to connect, as it is now: a relay that was started anew may have another port and token.

    Reads files: blocks.

    :raises BadTarget: the URL is none of a relay, or the file has no token.
    :raises ClientError: no URL was given, and no relay runs.
    """
    if wanted.url:
        uri = endpoint(wanted)
        own = _running_here(uri, settings)
    else:
        own = find_relay(settings)
        uri = endpoint(Wanted(url=own.url, agent=wanted.agent, project=wanted.project, role=wanted.role))
    if wanted.token_file:
        return Target(uri, _token_in(Path(wanted.token_file)))
    if own is not None:
        return Target(uri, own.token)
    token = environ.get(TOKEN_VARIABLE, "").strip()
    return Target(uri, _checked(token, TOKEN_VARIABLE) if token else None)


def endpoint(wanted: Wanted) -> str:
    """Return the address of the relay's ``/acp``, with what is wanted as its query.

    :raises BadTarget: the URL is none of a relay.
    """
    parts = _split(wanted.url)
    if "@" in parts.netloc or "token" in dict(parse_qsl(parts.query)):
        # It is not repeated here: what a command says ends up in logs.
        raise BadTarget(
            f"a token does not belong into the URL, where others can read it: put it into {TOKEN_VARIABLE}, "
            "or into a file of your own and name that by --token-file"
        )
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise BadTarget(
            f"{wanted.url!r} is not the URL of a relay: write it as https://relay.example.com or ws://HOST:PORT"
        )
    path = parts.path.rstrip("/")
    named = {"agent": wanted.agent, "project": wanted.project, "role": wanted.role}
    query = {**dict(parse_qsl(parts.query)), **{name: value for name, value in named.items() if value}}
    path = path if path.endswith("/acp") else f"{path}/acp"
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, urlencode(query), ""))


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; nothing but empty ones if it is none."""
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return _NO_URL
    return parts if has_port else _NO_URL


def _running_here(uri: str, settings: Settings) -> Address | None:
    """Return this user's own relay if that is what the URL names: no other one gets its token."""
    running = read_running(settings.state_dir)
    if running is None or not running.url:
        return None
    named, here = urlsplit(uri), urlsplit(running.url)
    same_host = named.hostname == here.hostname or (
        is_loopback(named.hostname or "") and is_loopback(here.hostname or "")
    )
    same = named.scheme == "ws" and same_host and (named.port or 80) == here.port
    return find_relay(settings) if same else None


def _token_in(file: Path) -> str:
    try:
        token = file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadTarget(f"the token cannot be read from {str(file)!r}: {why}") from error
    if not token:
        raise BadTarget(f"the token file {str(file)!r} is empty")
    return _checked(token, f"the file {str(file)!r}")


def _checked(token: str, origin: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadTarget(f"what {origin} holds is no token: it must be one word of ASCII characters")
    return token
