"""The systemd user unit of a relay, as text. See systemd.service(5), systemd.exec(5) and systemd.syntax(7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from relaykit.errors import RelaykitError

_UNIT = """\
[Unit]
Description=relaykit: coding agents, relayed ({name})
Documentation=https://pypi.org/project/relaykit/

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={directory}
{environment}
# Keys for agents ([agents.NAME] env) and other secrets: NAME=value lines, for this user's eyes alone.
EnvironmentFile=-{secrets}
# SIGTERM goes to the relay, which puts sessions to sleep and ends its agents itself; what is left is killed then.
KillMode=mixed
TimeoutStopSec=90
Restart=on-failure
RestartSec=2
# An agent that eats all memory ends, and not the relay with it; limits of agents need control groups of their own.
OOMPolicy=continue
Delegate=cpu memory pids
UMask=0077

[Install]
WantedBy=default.target
"""


def make_unit(
    *, name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str], secrets: Path
) -> str:
    """Return the text of a unit.

    :param command: with the program's absolute path.
    :param directory: the working directory, absolute.
    :param environment: what the service is given besides what systemd gives it; readable for everybody who may read
        the unit: no secrets.
    :param secrets: a file with more variables, which need not exist.
    :raises RelaykitError: a value cannot stand in a unit.
    """
    assignments = [f"Environment={_quoted(f'{key}={value}')}" for key, value in environment.items()]
    return _UNIT.format(
        name=_plain(name),
        command=" ".join(_quoted(part, command=True) for part in command),
        directory=_path(directory),
        environment="\n".join(assignments),
        secrets=_path(secrets),
    )


def _quoted(text: str, *, command: bool = False) -> str:
    """Return text as one word: in double quotes, with what systemd would read as something else escaped."""
    escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped.replace("$", "$$") if command else escaped}"'


def _path(path: Path) -> str:
    """Return a path for a setting that takes the rest of its line as it is."""
    text = _plain(str(path))
    if text != text.strip() or text.endswith("\\") or '"' in text or "'" in text:
        raise RelaykitError(
            f"{text!r} cannot stand in a systemd unit: use a directory without quotes in its name"
        )
    return text


def _plain(text: str) -> str:
    if not text.isprintable():
        raise RelaykitError(
            f"{text!r} cannot stand in a systemd unit: it has a character that is not printable"
        )
    return text.replace("%", "%%")
