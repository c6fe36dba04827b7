"""``relaykit tokens``: gives out tokens, lists and revokes them; a relay that runs knows at once."""

from __future__ import annotations

import json
import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from relaykit.commands.table import print_table
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from relaykit.commands.invocation import Invocation
    from relaykit.hooks.plugin_set import PluginSet
    from relaykit.settings import Settings
    from relaykit_gateway.token_file import NamedToken, TokenFile

FAILED = 1

_PERIOD = re.compile(r"([1-9][0-9]{0,5})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLUMNS = ("NAME", "ROLE", "OWNER", "PROJECTS", "SESSIONS", "CREATED", "EXPIRES")


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser(
        "add",
        help="make a token",
        description="Make a token, and print it: this once, and never again. What is kept of it does not tell it.",
    )
    add.add_argument("name", metavar="NAME", help="by which it is listed and revoked")
    add.add_argument(
        "--role", required=True, choices=("controller", "observer"), help="an observer only watches"
    )
    add.add_argument("--owner", default="local", help="whose sessions it sees, and creates (local)")
    add.add_argument(
        "--project", metavar="P", action="extend", nargs="+", help="it sees sessions of these projects alone"
    )
    add.add_argument(
        "--session", metavar="ID", action="extend", nargs="+", help="it sees these sessions alone"
    )
    add.add_argument("--expires", metavar="PERIOD", type=_period, help="after this time, as 12h or 30d")
    add.set_defaults(act=_add)
    listing = actions.add_parser(
        "list", help="list the tokens", description="List the tokens, which nothing tells any more."
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(act=_list)
    revoke = actions.add_parser(
        "revoke",
        help="take a token back",
        description="Take a token back: it is let in no more, and what it has opened is closed.",
    )
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(act=_revoke)


def _period(text: str) -> timedelta:
    import argparse

    match = _PERIOD.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no period: 90s, 45m, 12h, 30d or 8w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _run(arguments: argparse.Namespace) -> int:
    from relaykit.errors import RelaykitError
    from relaykit_gateway.token_file import TokenFile, tokens_path

    settings = cast("Invocation", arguments).load_settings()
    try:
        arguments.act(TokenFile(tokens_path(settings.state_dir)), settings, arguments)
    except RelaykitError as error:
        sys.stderr.write(f"relaykit: {error}\n")
        return FAILED
    return 0


def _add(file: TokenFile, settings: Settings, arguments: argparse.Namespace) -> None:
    from relaykit.clock import SystemClock
    from relaykit.errors import UnknownProject
    from relaykit.relay.access import Access, Role
    from relaykit_gateway.token_file import NamedToken, check_name, check_token_name, digest_of, new_token

    for project in arguments.project or ():
        if project not in settings.projects:
            raise UnknownProject(project, settings.projects)
    sessions = _full_ids(settings, cast("Invocation", arguments).load_plugins, arguments.session)
    secret, now = new_token(), SystemClock().now()
    access = Access(
        owner=check_name(arguments.owner, what="owner"),
        role=Role(arguments.role),
        projects=None if arguments.project is None else frozenset(arguments.project),
        sessions=sessions,
    )
    token = NamedToken(
        name=check_token_name(arguments.name),
        digest=digest_of(secret),
        access=access,
        created_at=now,
        expires_at=None if arguments.expires is None else now + arguments.expires,
    )
    file.add(token)
    sys.stderr.write(
        f"token {token.name!r}: {_what(token)}. It is shown this once; `relaykit tokens revoke {token.name}` takes "
        "it back\n"
    )
    sys.stderr.flush()
    sys.stdout.write(f"{secret}\n")


def _full_ids(
    settings: Settings, load_plugins: Callable[[], PluginSet], given: Sequence[str] | None
) -> frozenset[str] | None:
    """Return the ids of the sessions that are meant: a token for one that there is not would see nothing, for ever."""
    if given is None:
        return None
    from relaykit_gateway.records import full_id, open_records

    with open_records(settings, load_plugins) as records:
        return frozenset(full_id(records, session_id) for session_id in given)


def _what(token: NamedToken) -> str:
    access = token.access
    words = [f"{access.role} of {access.owner!r}"]
    if access.projects is not None:
        words.append(f"of the projects {', '.join(sorted(access.projects))} alone")
    if access.sessions is not None:
        words.append(f"of the sessions {', '.join(sorted(access.sessions))} alone")
    if token.expires_at is not None:
        words.append(f"until {token.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    if access.is_narrow:
        words.append("narrow, so that it may stand in a URL")
    return ", ".join(words)


def _list(file: TokenFile, _settings: Settings, arguments: argparse.Namespace) -> None:
    from relaykit.clock import SystemClock

    now = SystemClock().now()
    tokens = [_view(token, expired=token.has_expired(now)) for token in file.read()]
    if arguments.json:
        sys.stdout.write(json.dumps(tokens, indent=2) + "\n")
        return
    print_table(_COLUMNS, [_row(token) for token in tokens])


def _view(token: NamedToken, *, expired: bool) -> dict[str, Any]:
    from relaykit_gateway.wire import timestamp

    access = token.access
    return {
        "name": token.name,
        "role": access.role,
        "owner": access.owner,
        "projects": None if access.projects is None else sorted(access.projects),
        "sessions": None if access.sessions is None else sorted(access.sessions),
        "createdAt": timestamp(token.created_at),
        "expiresAt": None if token.expires_at is None else timestamp(token.expires_at),
        "expired": expired,
    }


def _row(token: dict[str, Any]) -> Sequence[str]:
    def only(names: Sequence[str] | None) -> str:
        return "all" if names is None else ", ".join(names)

    expires = "never" if token["expiresAt"] is None else token["expiresAt"]
    return (
        token["name"],
        token["role"],
        token["owner"],
        only(token["projects"]),
        only(token["sessions"]),
        token["createdAt"],
        f"{expires} (expired)" if token["expired"] else expires,
    )


def _revoke(file: TokenFile, _settings: Settings, arguments: argparse.Namespace) -> None:
    file.revoke(arguments.name)
    sys.stdout.write(f"token {arguments.name} is revoked\n")


TOKENS = Command(
    name="tokens",
    help="give out tokens for clients of the relay, list and revoke them",
    configure=_configure,
    run=_run,
)
