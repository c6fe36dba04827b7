"""``relaykit transcript``: what was said in a session, which runs or has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from relaykit.commands.invocation import Invocation
    from relaykit_gateway.records import Json

FAILED = 1


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the session's id, or its beginning")
    parser.add_argument("--tail", metavar="N", type=_count, default=0, help="only the last N turns")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--json", action="store_true", help="write one JSON object a line: every entry as it is kept"
    )
    how.add_argument("--markdown", action="store_true", help="write a Markdown document")
    parser.add_argument(
        "--plain", action="store_true", help="no colours, and the agent's markdown as it is; so does NO_COLOR"
    )


def _count(text: str) -> int:
    import argparse

    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text[:9])


def _run(arguments: argparse.Namespace) -> int:
    import sys

    from relaykit_gateway.address import ClientError
    from relaykit_gateway.chat.history import last_turns
    from relaykit_gateway.records import full_id, open_records

    invocation = cast("Invocation", arguments)
    try:
        with open_records(invocation.load_settings(), invocation.load_plugins) as records:
            session = records.session(full_id(records, arguments.id))
            entries = records.transcript(session["id"])
            _write(arguments, session, last_turns(entries, arguments.tail) if arguments.tail else entries)
    except ClientError as error:
        sys.stderr.write(f"relaykit: {error}\n")
        return FAILED
    return 0


def _write(arguments: argparse.Namespace, session: Json, entries: Iterable[Json]) -> None:
    import json
    import sys

    from relaykit_gateway.chat.history import PlainTeller, tell
    from relaykit_gateway.chat.markdown_history import MarkdownTeller
    from relaykit_gateway.chat.transcript import Transcript
    from relaykit_gateway.terminal.screen import Screen

    screen = Screen.on(sys.stdout, plain=arguments.plain or arguments.json or arguments.markdown)
    what = f"{session['id']}: {session['agent']} as {session['agentId']}, {session['project']}"
    if arguments.json:
        for entry in entries:
            sys.stdout.write(f"{json.dumps(entry)}\n")
    elif arguments.markdown:
        document = MarkdownTeller(sys.stdout, agent=str(session["agent"]))
        document.begin(f"Session {what}")
        tell(entries, document)
        document.end()
    else:
        transcript = Transcript(screen, prompts=False)
        transcript.note(f"session {what}")
        tell(entries, PlainTeller(transcript))
        transcript.end_line()


TRANSCRIPT = Command(
    name="transcript",
    help="show what was said in a session, which runs or has ended",
    configure=_configure,
    run=_run,
)
