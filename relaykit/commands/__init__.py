"""The ``relaykit`` command. Nothing heavy is imported here: ``relaykit --help`` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from relaykit.errors import PluginLoadError, RelaykitError

if TYPE_CHECKING:
    from relaykit.commands.invocation import Invocation
    from relaykit.hooks.registration import Command

__all__ = ["main"]

_CORE = ("serve", "doctor", "plugins", "settings", "service")
_USAGE_ERROR = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code.

    :param argv: the arguments without the program's name; by default those of this process.
    """
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except RelaykitError as error:
        print(f"relaykit: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain about the pipe then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    return code


def _run(argv: list[str]) -> int:
    from relaykit.commands.invocation import Invocation

    config, rest = _config_in(argv)
    invocation = Invocation(config=config)
    problem = None
    commands = _command_alone(invocation, rest)
    if not commands:
        core = _core_commands()
        added, problem = _added_commands(invocation, core)
        commands = {**core, **added}
    parser = _parser(commands, problem)
    try:
        arguments = parser.parse_args(argv, invocation)
    except SystemExit as stop:  # --help, --version, or something that was not understood
        if stop.code and problem is not None:
            print(f"relaykit: the commands of plugins are missing: {problem}", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else 0
    if problem is not None:
        # What is wrong with plugins can be looked at all the same.
        if arguments.command == "plugins" and isinstance(problem, PluginLoadError):
            print(f"relaykit: {problem}", file=sys.stderr)
        elif arguments.command != "doctor":  # which says itself what is wrong
            raise problem
    command: Command = arguments.run_command
    return command.run(arguments)


def _command_alone(invocation: Invocation, arguments: Sequence[str]) -> Mapping[str, Command]:
    """Return the command that is called, if it can be had without the plugins; else none."""
    from relaykit.commands.announced import find_command

    if not arguments or arguments[0].startswith("-") or arguments[0] in _CORE:
        return {}
    try:
        command = find_command(arguments[0], lambda: invocation.load_settings().relay.disabled)
    except RelaykitError:
        return {}  # the settings are wrong; that is said in the same way for all commands
    return {command.name: command} if command else {}


def _core_commands() -> Mapping[str, Command]:
    from relaykit.commands.doctor import DOCTOR
    from relaykit.commands.plugins import PLUGINS
    from relaykit.commands.serve import SERVE
    from relaykit.commands.service import SERVICE
    from relaykit.commands.settings import SETTINGS

    return dict(zip(_CORE, (SERVE, DOCTOR, PLUGINS, SETTINGS, SERVICE), strict=True))


def _added_commands(
    invocation: Invocation, core: Mapping[str, Command]
) -> tuple[Mapping[str, Command], RelaykitError | None]:
    """Return the commands of plugins, or none of them and why: ``--help`` works whatever is wrong."""
    try:
        provided = invocation.load_plugins().commands()
        for name, command in provided.items():
            if name in core:
                raise PluginLoadError(f"its command {name!r} is one of relaykit's own", plugin=command.plugin)
    except RelaykitError as error:
        return {}, error
    return {name: command.value for name, command in sorted(provided.items())}, None


def _parser(commands: Mapping[str, Command], problem: RelaykitError | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="relaykit",
        description="Run coding agents that speak ACP, and relay their sessions.",
        epilog=f"The commands of plugins are missing: {problem}" if problem else None,
        allow_abbrev=False,
    )
    _add_config(parser)
    parser.add_argument("--version", action=_ShowVersion, help="show relaykit's version and exit")
    subcommands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in commands.values():
        subparser = subcommands.add_parser(
            command.name, help=command.help, description=command.help, allow_abbrev=False
        )
        _add_config(subparser)
        command.configure(subparser)
        subparser.set_defaults(run_command=command)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    # Its value is known before the parser is built (see _config_in): here it is only accepted and explained.
    parser.add_argument("--config", metavar="FILE", help="settings file", default=argparse.SUPPRESS)


def _config_in(argv: list[str]) -> tuple[str | None, Sequence[str]]:
    """Return ``--config``, wherever it stands, and the rest: which subcommands there are depends on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        known, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        return None, ()  # the real parser says what is wrong with it
    config: str | None = known.config
    return config, rest


class _ShowVersion(argparse.Action):
    """Reads the version only when it is asked for: distributions' metadata is slow to parse."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"relaykit {version('relaykit')}")
        parser.exit()
