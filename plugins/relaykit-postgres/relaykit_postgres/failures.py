"""What went wrong at PostgreSQL's, for people, and whether trying again may help."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

_ADVICE = {
    "22021": "this text cannot be stored",
    "25006": "the server is read-only: let `dsn` lead to the primary (target_session_attrs=read-write)",
    "26000": "a pooler between relaykit and the server mixes sessions up: see the plugin's README",
    "3F000": "the schema is gone: start the relay again to make it anew, or restore it",
    "42501": "grant the relay's role what the plugin's README lists",
    "42P01": "a table is gone: start the relay again, or restore it",
    "53100": "free some space on the server's disk",
    "53300": "raise the server's max_connections, or lower `pool_size`",
    "57014": "see in pg_stat_activity what it waits for, or raise `statement_timeout`",
}

# The server undid one of two that got in each other's way.
_CROSSED = {"40001", "40P01", "55P03"}

# It takes nothing more on this connection, or not now: it is shutting down or starting, is full, or became a standby.
_LEFT = {"25006", "53300", "57P01", "57P02", "57P03", "57P05"}
_CONNECTION = "08"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A failure.

    :param text: what happened, and what can be done.
    :param passing: the same call may succeed in a moment.
    :param elsewhere: on another connection.
    """

    text: str
    passing: bool
    elsewhere: bool = False


def diagnose(error: psycopg.Error) -> Trouble:
    """Tell what an error means. Never quotes what was to be stored: it is not in the primary message."""
    state = error.sqlstate
    said = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if state is None:
        # Client-side: a connection that failed or broke, or a value that cannot be sent at all.
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Trouble(said, passing=lost, elsewhere=lost)
    advice = _ADVICE.get(state)
    left = state in _LEFT or state.startswith(_CONNECTION)
    return Trouble(
        f"{said} ({advice})" if advice else said, passing=left or state in _CROSSED, elsewhere=left
    )
