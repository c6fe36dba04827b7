"""``relaykit sessions``: lists, shows and ends the sessions of the running relay."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from relaykit.commands.table import print_table
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

    from relaykit.commands.invocation import Invocation
    from relaykit_gateway.http_client import HttpClient

FAILED = 1

_COLUMNS = {
    "ID": "id",
    "ROLE": "agentId",
    "AGENT": "agent",
    "PROJECT": "project",
    "STATE": "state",
    "MESSAGES": "messageCount",
    "CLIENTS": "clients",
    "LAST ACTIVE": "lastActive",
}


_RESTING = {"ASLEEP": "asleep", "DROWSY": "falling asleep", "WAKING": "waking"}


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the sessions", description="List the sessions.")
    listing.add_argument("--state", help="only those in this state: active, terminating …")
    listing.set_defaults(act=_list)
    show = actions.add_parser(
        "show", help="show a session", description="Show all that is known of a session."
    )
    show.add_argument("id", metavar="ID")
    show.set_defaults(act=_show)
    stop = actions.add_parser("stop", help="end a session", description="Begin to end a session.")
    stop.add_argument("id", metavar="ID")
    stop.add_argument("--reason", default="", help="why, for those who follow it")
    stop.set_defaults(act=_stop)
    for action in (listing, show):
        action.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> int:
    from relaykit_gateway.address import ClientError, find_relay
    from relaykit_gateway.http_client import HttpClient

    settings = cast("Invocation", arguments).load_settings()
    try:
        arguments.act(HttpClient(find_relay(settings)), arguments)
    except ClientError as error:
        sys.stderr.write(f"relaykit: {error}\n")
        return FAILED
    return 0


def _list(relay: HttpClient, arguments: argparse.Namespace) -> None:
    sessions = relay.sessions(state=arguments.state)
    if arguments.json:
        _write_json(sessions)
    else:
        told = [{**session, "state": _state_of(session)} for session in sessions]
        rows = [[_text(session[key]) for key in _COLUMNS.values()] for session in told]
        print_table(tuple(_COLUMNS), rows)


def _show(relay: HttpClient, arguments: argparse.Namespace) -> None:
    session = relay.session(arguments.id)
    if arguments.json:
        _write_json(session)
    else:
        print_table(("KEY", "VALUE"), [(key, _text(value)) for key, value in session.items()])


def _stop(relay: HttpClient, arguments: argparse.Namespace) -> None:
    relay.stop(arguments.id, reason=arguments.reason)
    sys.stdout.write(f"session {arguments.id} is being ended\n")


def _state_of(session: Mapping[str, Any]) -> str:
    """Return a session's state, with what else a person should know of its agent."""
    if session["needsLogin"]:
        return f"{session['state']}, needs login"
    resting = _RESTING.get(session["presence"]) if session["state"] == "ACTIVE" else None
    return f"{session['state']}, {resting}" if resting else str(session["state"])


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _write_json(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


SESSIONS = Command(
    name="sessions",
    help="list, show and end the sessions of the running relay",
    configure=_configure,
    run=_run,
)
