"""Entries and ended sessions for the tests of journals, and checks of what a journal holds."""
# ruff: noqa: S101, PT017 -- a test suite, which asserts; pytest is the contracts' own

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from relaykit.conversation import Entry, Frame, Journal, Kind
from relaykit.errors import JournalConflict
from relaykit.session import Activity, Cause, Session, SessionFilter, SessionState
from relaykit.testing.sessions import make_session

SAID_AT = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
"""When everything is said, and some seconds later."""
ALL = SessionFilter()


def make_entries(first: int, last: int, *, text: str = "said") -> list[Entry]:
    """Return the entries `first` to `last`, each with words of its own."""
    return [
        Entry(seq, SAID_AT + timedelta(seconds=seq), Frame(Kind.UPDATE, b'"%b %d"' % (text.encode(), seq)))
        for seq in range(first, last + 1)
    ]


def ended_session(session_id: str, *, minute: int = 0, **changes: Any) -> Session:
    """Return a session that is CLEANED, and ended at that minute."""
    return make_session(
        session_id,
        state=SessionState.CLEANED,
        version=5,
        worktree_dir="/work/ünïcode",
        cause=Cause.AGENT_EXITED,
        reason="it exited with 1",
        resources={"acp": {"pid": 7, "argv": ["a", "b"]}},
        activity=Activity(SAID_AT - timedelta(minutes=minute), 9),
        ended_at=SAID_AT + timedelta(minutes=minute),
        **changes,
    )


async def opened(journal: Journal, session_id: str = "s1") -> str:
    """Begin a transcript, and return its epoch."""
    return (await journal.open(make_session(session_id))).epoch


async def read_all(journal: Journal, session_id: str = "s1") -> list[Entry]:
    """Return everything that a transcript holds."""
    return list(await journal.read(session_id, after=0, limit=1000))


async def ended_ids(
    journal: Journal, *, before: datetime = SAID_AT + timedelta(days=1), skip: int = 0, limit: int = 100
) -> list[str]:
    """Return the ids of what has ended."""
    return [session.id for session in await journal.ended(ALL, before=before, skip=skip, limit=limit)]


async def refused(journal: Journal, epoch: str, batch: Sequence[Entry], *, left: list[Entry]) -> None:
    """Check that session s1 refuses a batch whole, and holds what it held."""
    try:
        await journal.append("s1", epoch, batch)
    except JournalConflict as conflict:
        assert conflict.session_id == "s1"
    else:
        raise AssertionError(f"the journal took {batch}")
    assert await read_all(journal) == left
