"""``relaykit chat``: talks to an agent from a terminal, or from a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

    from relaykit.commands.invocation import Invocation

FAILED = 1


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "session_id",
        metavar="SESSION_ID",
        nargs="?",
        help="attach to this session; without it a new one is created",
    )
    parser.add_argument("--role", default="chat", help="what the new session is for (default: chat)")
    parser.add_argument(
        "--agent", default="", help="the configured agent to run; by default the relay's default"
    )
    parser.add_argument("--project", default="", help="the configured project to work in")
    parser.add_argument(
        "--plain", action="store_true", help="no colours, and the agent's markdown as it is; so does NO_COLOR"
    )


def _run(arguments: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    import anyio

    from relaykit_gateway.address import ClientError, find_relay
    from relaykit_gateway.chat.chat import run_chat
    from relaykit_gateway.chat.transcript import Transcript
    from relaykit_gateway.chat.wanted import Wanted
    from relaykit_gateway.terminal.lines import Lines, utf8
    from relaykit_gateway.terminal.screen import Screen

    wanted = Wanted(
        session_id=arguments.session_id,
        role=arguments.role,
        agent=arguments.agent,
        project=arguments.project,
        cwd=utf8(str(Path.cwd())),
    )
    settings = cast("Invocation", arguments).load_settings()
    try:
        address = find_relay(settings)
        screen = Screen.on(sys.stdout, plain=arguments.plain)
        transcript = Transcript(screen, prompts=sys.stdin.isatty() and sys.stdout.isatty())
        return anyio.run(run_chat, address, wanted, Lines(sys.stdin.fileno()), transcript)
    except ClientError as error:
        sys.stderr.write(f"relaykit: {error}\n")
        return FAILED


CHAT = Command(
    name="chat",
    help="talk to an agent in the terminal, in a new session or in one that runs",
    configure=_configure,
    run=_run,
)
