"""KeepingContract: what journals forget, what they keep of sessions that ended, and how that is found again.

A part of `JournalContract`, which plugins subclass.
"""
# ruff: noqa: S101, D102 -- a test suite: it asserts, and its tests' names say what they show

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from relaykit.conversation import Journal, JournalState
from relaykit.session import Activity, SessionFilter, SessionState
from relaykit.testing.sessions import make_session
from relaykit.testing.transcripts import (
    ALL,
    SAID_AT,
    ended_ids,
    ended_session,
    make_entries,
    opened,
    read_all,
    refused,
)


class KeepingContract:
    """What holds for the ends of transcripts."""

    # ------------------------------------------------------------ trim

    async def test_trimming_forgets_the_oldest_and_keeps_the_numbers(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 5))
        await journal.trim("s1", through=3)
        assert await journal.open(make_session()) == JournalState(epoch, 4, 5)
        assert await read_all(journal) == make_entries(4, 5)
        assert list(await journal.read("s1", after=2, limit=1)) == make_entries(4, 4)
        assert list(await journal.read("s1", after=4, limit=10)) == make_entries(5, 5)
        await journal.append("s1", epoch, make_entries(6, 6))
        await refused(journal, epoch, make_entries(8, 8), left=make_entries(4, 6))

    async def test_trimming_less_or_nothing_changes_nothing(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 5))
        await journal.trim("s1", through=0)
        assert await read_all(journal) == make_entries(1, 5)
        await journal.trim("s1", through=3)
        await journal.trim("s1", through=2)
        assert await read_all(journal) == make_entries(4, 5)

    @pytest.mark.parametrize("through", [5, 99])
    async def test_trimming_everything_keeps_the_head(self, journal: Journal, through: int) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 5))
        await journal.trim("s1", through=through)
        assert await journal.open(make_session()) == JournalState(epoch, 6, 5)
        assert await read_all(journal) == []
        await refused(journal, epoch, make_entries(1, 1), left=[])
        await journal.append("s1", epoch, make_entries(6, 7))
        assert await read_all(journal) == make_entries(6, 7)

    async def test_trimming_leaves_other_sessions_alone(self, journal: Journal) -> None:
        for session_id in ("s1", "s2"):
            await journal.append(session_id, await opened(journal, session_id), make_entries(1, 3))
        await journal.trim("s1", through=3)
        assert await read_all(journal, "s2") == make_entries(1, 3)

    # ------------------------------------------------------------ close and ended

    async def test_what_is_closed_is_kept_and_takes_nothing(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 3))
        await journal.close(ended_session("s1"))
        await refused(journal, epoch, make_entries(4, 4), left=make_entries(1, 3))
        await journal.close(ended_session("s1"))
        await refused(journal, epoch, make_entries(4, 4), left=make_entries(1, 3))
        assert await journal.find("s1") == ended_session("s1")

    async def test_what_was_closed_can_be_opened_again(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.append("s1", epoch, make_entries(1, 3))
        await journal.close(ended_session("s1"))
        assert await journal.open(make_session()) == JournalState(epoch, 1, 3)
        assert await journal.find("s1") is None
        assert list(await journal.ended(ALL, before=SAID_AT + timedelta(days=1))) == []
        await journal.append("s1", epoch, make_entries(4, 4))
        await journal.close(ended_session("s1", minute=7))
        assert await journal.find("s1") == ended_session("s1", minute=7)
        assert await read_all(journal) == make_entries(1, 4)

    async def test_only_what_is_closed_is_found(self, journal: Journal) -> None:
        await opened(journal)
        assert await journal.find("s1") is None
        assert await journal.find("nobody") is None
        await journal.close(ended_session("nobody"))
        assert await journal.find("nobody") is None

    async def test_what_ended_is_listed_latest_first(self, journal: Journal) -> None:
        minutes = {"s1": 3, "s2": 1, "s3": 2, "s4": 4}
        for session_id in (*minutes, "running"):
            await opened(journal, session_id)
        for session_id, minute in minutes.items():
            await journal.close(ended_session(session_id, minute=minute))
        after_three = SAID_AT + timedelta(minutes=3, seconds=1)
        assert list(await journal.ended(ALL, before=after_three)) == [
            ended_session(session_id, minute=minutes[session_id]) for session_id in ("s1", "s3", "s2")
        ]
        assert await ended_ids(journal, before=after_three, limit=2) == ["s1", "s3"]
        assert await ended_ids(journal, before=after_three, skip=2, limit=2) == ["s2"]
        assert await ended_ids(journal, before=SAID_AT) == []
        assert await ended_ids(journal, before=SAID_AT + timedelta(minutes=3)) == ["s3", "s2"]

    async def test_what_ended_at_once_is_listed_by_id(self, journal: Journal) -> None:
        for session_id in ("s2", "s3", "s1"):
            await opened(journal, session_id)
            await journal.close(ended_session(session_id))
        assert await ended_ids(journal) == ["s1", "s2", "s3"]
        assert await ended_ids(journal, skip=1, limit=1) == ["s2"]

    async def test_a_session_that_does_not_say_when_it_ended_ended_when_it_was_last_active(
        self, journal: Journal
    ) -> None:
        later = ended_session("s1", minute=1)
        silent = replace(ended_session("s2"), ended_at=None, activity=Activity(SAID_AT))
        for session in (later, silent):
            await opened(journal, session.id)
            await journal.close(session)
        assert await ended_ids(journal, before=SAID_AT + timedelta(seconds=1)) == ["s2"]
        assert await ended_ids(journal) == ["s1", "s2"]

    @pytest.mark.parametrize(
        "where",
        [
            SessionFilter(agent_id="auth"),
            SessionFilter(owner="ann"),
            SessionFilter(project="site"),
            SessionFilter(node="n2"),
            SessionFilter(state=SessionState.CLEANED, owner="ann", project="site"),
        ],
    )
    async def test_what_ended_is_listed_by_what_it_was(self, journal: Journal, where: SessionFilter) -> None:
        wanted = ended_session("s2", agent_id="auth", owner="ann", project="site", node="n2")
        for session in (ended_session("s1"), wanted, ended_session("s3")):
            await opened(journal, session.id)
            await journal.close(session)
        assert list(await journal.ended(where, before=SAID_AT + timedelta(days=1))) == [wanted]
        assert list(await journal.ended(SessionFilter(owner="bob"), before=SAID_AT)) == []

    # ------------------------------------------------------------ delete

    async def test_what_was_deleted_is_forgotten(self, journal: Journal) -> None:
        epochs = {session_id: await opened(journal, session_id) for session_id in ("s1", "s2")}
        for session_id, epoch in epochs.items():
            await journal.append(session_id, epoch, make_entries(1, 3))
            await journal.close(ended_session(session_id))
        await journal.delete("s1")
        assert await read_all(journal) == []
        assert await ended_ids(journal) == ["s2"]
        assert await journal.find("s1") is None
        assert await read_all(journal, "s2") == make_entries(1, 3)
        state = await journal.open(make_session())
        assert (state.first, state.head) == (1, 0)
        assert state.epoch not in epochs.values()
        await refused(journal, epochs["s1"], make_entries(1, 3), left=[])
        await journal.append("s1", state.epoch, make_entries(1, 1))

    async def test_deleting_the_absent_does_nothing(self, journal: Journal) -> None:
        epoch = await opened(journal)
        await journal.delete("nobody")
        await journal.append("s1", epoch, make_entries(1, 1))
        await journal.delete("s1")
        await journal.delete("s1")
