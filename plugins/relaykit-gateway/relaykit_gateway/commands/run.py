"""``relaykit run``: one prompt to an agent, for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

    from relaykit.commands.invocation import Invocation

FAILED = 1
USAGE = 2

_ENDS = """\
exit codes:
  0    the agent has answered
  1    it failed, or stopped early; or the relay cannot be used
  2    the command line or the settings are wrong
  3    the agent refused
  4    it asks something that a person must answer; the session waits
  130  it was cancelled, by Ctrl-C, SIGTERM, or another client
"""


def _configure(parser: argparse.ArgumentParser) -> None:
    from argparse import RawDescriptionHelpFormatter

    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = _ENDS
    parser.add_argument("prompt", metavar="PROMPT", help="what to say; - reads it from the standard input")
    parser.add_argument("--session", metavar="ID", help="say it in this session, which then lives on")
    parser.add_argument("--role", default="", help="what the new session is for (default: a role of its own)")
    parser.add_argument(
        "--agent", default="", help="the configured agent to run; by default the relay's default"
    )
    parser.add_argument("--project", default="", help="the configured project to work in")
    parser.add_argument("--keep", action="store_true", help="let the new session live on; else it is ended")
    parser.add_argument(
        "--json", action="store_true", help="write one JSON object a line: every event, with raw updates"
    )
    policy = parser.add_mutually_exclusive_group()
    policy.add_argument("--yes", action="store_true", help="give every permission that the agent asks for")
    policy.add_argument("--no", action="store_true", help="refuse every permission")
    policy.add_argument(
        "--ask", action="store_true", help="ask at the terminal; by default, a question ends the run with 4"
    )


def _run(arguments: argparse.Namespace) -> int:
    import sys

    from relaykit_gateway.terminal.lines import utf8

    problem = _problem(arguments, on_terminal=sys.stdin is not None and sys.stdin.isatty())
    prompt = arguments.prompt
    if prompt == "-" and not problem:
        prompt = "" if sys.stdin is None else sys.stdin.buffer.read().decode(errors="replace")
    if not prompt.strip():
        problem = problem or "the prompt is empty"
    if problem:
        sys.stderr.write(f"relaykit run: error: {problem}\n")
        return USAGE
    return _run_task(arguments, utf8(prompt))


def _problem(arguments: argparse.Namespace, *, on_terminal: bool) -> str:
    """Return what is wrong with the arguments, or nothing."""
    if arguments.session:
        for option in ("role", "agent", "project", "keep"):
            if getattr(arguments, option):
                return f"--{option} is for a new session, and --session names one that there is"
    if arguments.ask and (arguments.prompt == "-" or not on_terminal):
        return "--ask needs a terminal as its standard input"
    return ""


def _run_task(arguments: argparse.Namespace, prompt: str) -> int:
    import sys
    from pathlib import Path

    import anyio

    from relaykit_gateway.address import ClientError, find_relay
    from relaykit_gateway.chat.asking import Asker
    from relaykit_gateway.chat.outputs import JsonOutput, TextOutput
    from relaykit_gateway.chat.policy import Policy
    from relaykit_gateway.chat.run import Task, run_task
    from relaykit_gateway.chat.transcript import Transcript
    from relaykit_gateway.chat.wanted import Wanted
    from relaykit_gateway.terminal.lines import Lines, utf8
    from relaykit_gateway.terminal.screen import Screen

    task = Task(
        prompt=prompt,
        wanted=Wanted(
            session_id=arguments.session,
            role=arguments.role,
            agent=arguments.agent,
            project=arguments.project,
            cwd=utf8(str(Path.cwd())),
        ),
        policy=Policy.YES if arguments.yes else Policy.NO if arguments.no else Policy.LEAVE,
        keep=arguments.keep,
    )
    transcript = Transcript(Screen.on(sys.stderr), prompts=arguments.ask)
    output = (JsonOutput if arguments.json else TextOutput)(sys.stdout, transcript)
    asker = Asker.on(Lines(sys.stdin.fileno()), transcript) if arguments.ask else None
    settings = cast("Invocation", arguments).load_settings()
    try:
        return anyio.run(run_task, find_relay(settings), task, output, asker)
    except ClientError as error:
        sys.stderr.write(f"relaykit: {error}\n")
        return FAILED


RUN = Command(
    name="run",
    help="say one thing to an agent, print its answer, and end: for scripts",
    configure=_configure,
    run=_run,
)
