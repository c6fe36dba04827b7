"""``relaykit connect``: what an editor starts as its agent, when the agent runs behind a relay."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

    from relaykit.commands.invocation import Invocation

FAILED = 1
_YEAR = 365 * 24 * 3600.0


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        default="",
        help="the relay, as https://relay.example.com; by default the one that runs here",
    )
    parser.add_argument("--agent", default="", help="the configured agent; by default the relay's default")
    parser.add_argument("--project", default="", help="the configured project to work in")
    parser.add_argument(
        "--role", default="", help="what the sessions are for; by default a new name for each"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        default="",
        help="where the relay's token is; by default RELAYKIT_TOKEN has it, and the relay here needs neither",
    )
    parser.add_argument(
        "--keep-alive",
        metavar="SECONDS",
        type=_seconds,
        default=20.0,
        help="how long the relay may be silent before the connection counts as lost (default: 20)",
    )
    parser.add_argument(
        "--give-up",
        metavar="SECONDS",
        type=_seconds,
        default=600.0,
        help="how long to try to connect again before what is open is answered with errors (default: 600)",
    )


def _seconds(text: str) -> float:
    import argparse

    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < _YEAR:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _run(arguments: argparse.Namespace) -> int:
    import os
    import sys
    from functools import partial

    from relaykit.ids import SystemIds
    from relaykit_gateway.address import ClientError
    from relaykit_gateway.connect.bridge import Bridge
    from relaykit_gateway.connect.editor import Editor
    from relaykit_gateway.connect.pump import Patience, Pump
    from relaykit_gateway.connect.target import Wanted, find_target

    wanted = Wanted(
        url=arguments.url,
        agent=arguments.agent,
        project=arguments.project,
        role=arguments.role,
        token_file=arguments.token_file,
    )
    settings = cast("Invocation", arguments).load_settings()
    patience = Patience(keep_alive=arguments.keep_alive, give_up=arguments.give_up)
    editor = Editor(sys.stdin.fileno(), sys.stdout.fileno())
    pump = Pump(editor, Bridge(SystemIds()), partial(find_target, wanted, settings, os.environ), patience)
    try:
        return pump.run()
    except ClientError as error:
        sys.stderr.write(f"relaykit: {error}\n")
        return FAILED


CONNECT = Command(
    name="connect",
    help="be the agent that an editor starts, for an agent behind a relay",
    configure=_configure,
    run=_run,
)
