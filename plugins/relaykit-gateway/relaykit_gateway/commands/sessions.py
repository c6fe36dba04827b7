"""``relaykit sessions``: lists, shows, ends and resumes the sessions of the relay that runs here."""

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
    from relaykit_gateway.records import Records

FAILED = 1

_COLUMNS = {
    "ID": "id",
    "ROLE": "agentId",
    "AGENT": "agent",
    "OWNER": "owner",
    "PROJECT": "project",
    "STATE": "state",
    "MESSAGES": "messageCount",
    "CLIENTS": "clients",
    "LAST ACTIVE": "lastActive",
}


_ENDED_COLUMNS = {
    "ID": "id",
    "ROLE": "agentId",
    "AGENT": "agent",
    "OWNER": "owner",
    "PROJECT": "project",
    "ENDED": "endedAt",
    "CAUSE": "cause",
    "REASON": "reason",
}

_RESTING = {"ASLEEP": "asleep", "DROWSY": "falling asleep", "WAKING": "waking"}


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the sessions", description="List the sessions.")
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--state", help="only those in this state: active, terminating …")
    which.add_argument("--ended", action="store_true", help="those that have ended, the latest first")
    listing.add_argument(
        "--limit", metavar="N", type=int, default=50, help="of those that have ended, so many; 0 for all (50)"
    )
    listing.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_seconds,
        nargs="?",
        const=1.0,
        help="show them again every SECONDS (1) until Ctrl-C, with rates and the questions that wait; with --json a "
        "line each time",
    )
    listing.set_defaults(look=_list)
    show = actions.add_parser(
        "show",
        help="show a session",
        description="Show all that is known of a session, also of one that has ended.",
    )
    show.set_defaults(look=_show)
    stop = actions.add_parser("stop", help="end a session", description="Begin to end a session.")
    stop.add_argument("--reason", default="", help="why, for those who follow it")
    stop.set_defaults(act=_stop)
    resume = actions.add_parser(
        "resume",
        help="start a session that has ended anew",
        description="Start a session that has ended anew: its role, its transcript and its workspace go on, and its "
        "agent where it was, if it can.",
    )
    resume.set_defaults(act=_resume)
    for action in (show, stop, resume):
        action.add_argument("id", metavar="ID", help="its id, or the beginning of it")
    for action in (listing, show):
        action.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> int:
    from relaykit_gateway.address import ClientError, find_relay
    from relaykit_gateway.http_client import HttpClient
    from relaykit_gateway.records import open_records

    invocation = cast("Invocation", arguments)
    settings = invocation.load_settings()
    try:
        if "look" in arguments:
            with open_records(settings, invocation.load_plugins) as records:
                arguments.look(records, arguments)
        else:
            arguments.act(HttpClient(find_relay(settings)), arguments)
    except ClientError as error:
        sys.stderr.write(f"relaykit: {error}\n")
        return FAILED
    return 0


def _seconds(text: str) -> float:
    import argparse
    import math

    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 3600:  # noqa: PLR2004 -- said in the message
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 3600")
    return seconds


def _list(records: Records, arguments: argparse.Namespace) -> None:
    if arguments.watch is not None:
        from relaykit_gateway.address import ClientError
        from relaykit_gateway.commands.watching import watch

        if arguments.ended:
            raise ClientError("those that have ended do not change: leave out --watch")
        watch(
            lambda: records.sessions(state=arguments.state),
            state_of=_state_of,
            seconds=arguments.watch,
            as_json=arguments.json,
        )
        return
    sessions = (
        records.ended(limit=arguments.limit) if arguments.ended else records.sessions(state=arguments.state)
    )
    columns = _ENDED_COLUMNS if arguments.ended else _COLUMNS
    if arguments.json:
        _write_json(sessions)
    else:
        told = [{**session, "state": _state_of(session)} for session in sessions]
        rows = [[_text(session.get(key)) for key in columns.values()] for session in told]
        print_table(tuple(columns), rows)


def _show(records: Records, arguments: argparse.Namespace) -> None:
    from relaykit_gateway.records import full_id

    session = records.session(full_id(records, arguments.id))
    if arguments.json:
        _write_json(session)
    else:
        print_table(("KEY", "VALUE"), [(key, _text(value)) for key, value in session.items()])


def _stop(relay: HttpClient, arguments: argparse.Namespace) -> None:
    from relaykit_gateway.records import full_id

    session_id = full_id(relay, arguments.id)
    relay.stop(session_id, reason=arguments.reason)
    sys.stdout.write(f"session {session_id} is being ended\n")


def _resume(relay: HttpClient, arguments: argparse.Namespace) -> None:
    from relaykit_gateway.records import full_id

    session_id = full_id(relay, arguments.id)
    relay.resume(session_id)
    sys.stdout.write(f"session {session_id} is being started: relaykit chat {session_id}\n")


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
    help="list, show, end and resume the sessions of the relay",
    configure=_configure,
    run=_run,
)
