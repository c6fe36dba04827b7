"""``relaykit service``: a relay that starts with the machine, as a systemd user unit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from relaykit.commands.invocation import Invocation

_KEPT = ("PATH", "LANG", "SSH_AUTH_SOCK", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "RELAYKIT_CONFIG")
"""Variables whose values of now the service gets: agents find their programs, and it its settings and its state, as
here."""


def _configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    install = actions.add_parser(
        "install",
        help="write the unit, and start it now and whenever the machine starts",
        description="Write a systemd user unit that runs `relaykit serve` with the settings, the directory and the "
        "PATH of now, and start it; again, to bring it up to date.",
    )
    how = install.add_mutually_exclusive_group()
    how.add_argument("--print", dest="only_print", action="store_true", help="only print the unit")
    how.add_argument("--no-start", action="store_true", help="write the unit, and start nothing")
    install.add_argument(
        "--log-format", default="text", choices=("text", "json"), help="as `relaykit serve` has it"
    )
    remove = actions.add_parser(
        "remove", help="stop it, and remove the unit", description="Stop the service, and remove its unit."
    )
    for action in (install, remove):
        action.add_argument(
            "--name", default="relaykit", help="the unit's name, for a second relay (relaykit)"
        )


def _run(arguments: argparse.Namespace) -> int:
    unit = _unit_path(arguments.name)
    if arguments.action == "remove":
        return _remove(unit)
    text = _text(cast("Invocation", arguments), unit)
    _tell_what_is_not_kept(unit)
    if arguments.only_print:
        sys.stdout.write(text)
        return 0
    return _install(unit, text, start=not arguments.no_start)


def _unit_path(name: str) -> Path:
    import os
    import re
    from pathlib import Path

    from relaykit.errors import RelaykitError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name, re.ASCII):
        raise RelaykitError(f"{name!r} is no name for a unit: letters, digits, `_`, `.` and `-`")
    configuration = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(configuration) / "systemd" / "user" / f"{name}.service"


def _text(invocation: Invocation, unit: Path) -> str:
    import os
    from pathlib import Path

    from relaykit.commands.unit import make_unit

    invocation.load_settings()  # what is wrong with them is said now, and not in a log that nobody reads
    command = [sys.executable, "-m", "relaykit"]
    if invocation.config is not None:
        command += ["--config", str(Path(invocation.config).absolute())]
    command += ["serve", "--log-format", invocation.log_format]
    return make_unit(
        name=unit.stem,
        command=command,
        directory=Path.cwd(),
        environment={name: os.environ[name] for name in _KEPT if os.environ.get(name)},
        secrets=_secrets_path(unit),
    )


def _secrets_path(unit: Path) -> Path:
    return unit.parent.parent.parent / "relaykit" / f"{unit.stem}.env"


def _tell_what_is_not_kept(unit: Path) -> None:
    """Name the settings in variables that the service will not have: a value may be a secret, and units are read."""
    import os

    left = [
        name for name in sorted(os.environ) if name.startswith(("RELAYKIT_", "OTEL_")) and name not in _KEPT
    ]
    if left:
        sys.stderr.write(
            f"relaykit: the service will not have these variables of now: {', '.join(left)}. What it is to have, "
            f"write as NAME=value lines to {_secrets_path(unit)}\n"
        )


def _install(unit: Path, text: str, *, start: bool) -> int:
    changed = not unit.exists() or unit.read_text(encoding="utf-8") != text
    if changed:
        unit.parent.mkdir(parents=True, exist_ok=True)
        new = unit.with_name(f".{unit.name}.new")
        new.write_text(text, encoding="utf-8")
        new.replace(unit)
    print(f"{unit}: {'written' if changed else 'as it was'}")
    if not start:
        return 0
    for what in (["daemon-reload"], ["enable", unit.name], ["restart" if changed else "start", unit.name]):
        if code := _systemctl(*what):
            return code
    print(f"it runs: `systemctl --user status {unit.stem}`; its log: `journalctl --user -u {unit.stem}`")
    print("to have it run while you are not logged in: `loginctl enable-linger`")
    return 0


def _remove(unit: Path) -> int:
    from relaykit.errors import RelaykitError

    if not unit.exists():
        raise RelaykitError(f"there is no {str(unit)!r}")
    if code := _systemctl("disable", "--now", unit.name):
        return code
    unit.unlink()
    print(f"{unit}: removed")
    return _systemctl("daemon-reload")


def _systemctl(*arguments: str) -> int:
    """Run ``systemctl --user`` on this terminal, and return its exit code.

    :raises RelaykitError: it is not there.
    """
    import subprocess

    from relaykit.errors import RelaykitError

    try:
        return subprocess.run(["systemctl", "--user", *arguments], check=False).returncode  # noqa: S603, S607 -- no shell
    except FileNotFoundError as error:
        raise RelaykitError("the program 'systemctl' was not found: a service needs systemd") from error


SERVICE = Command(
    name="service",
    help="have a relay run whenever the machine does (systemd)",
    configure=_configure,
    run=_run,
)
