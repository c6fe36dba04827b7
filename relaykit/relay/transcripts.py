"""Transcripts: they are closed before the store forgets their sessions, and forgotten themselves in the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from relaykit.clock import Clock
from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Kind
from relaykit.conversation.journal import Journal
from relaykit.errors import JournalError
from relaykit.relay import notices
from relaykit.session.cleaner import CleanupReport
from relaykit.session.model import Session, SessionFilter

logger = logging.getLogger(__name__)

_PAGE = 100


class Transcripts:
    """The journal's beginnings and ends, for all sessions of a relay."""

    def __init__(self, journal: Journal, *, clock: Clock, tail_bytes: int) -> None:
        self.journal = journal
        self._clock = clock
        self._tail_bytes = tail_bytes
        self._open: dict[str, Conversation] = {}

    def conversation(self) -> Conversation:
        """Return a conversation that is still to be opened."""
        return Conversation(journal=self.journal, clock=self._clock, tail_bytes=self._tail_bytes)

    async def open(self, conversation: Conversation, session: Session) -> None:
        """Open a session's conversation, which `close` will end.

        :raises JournalError: the journal cannot be opened.
        """
        await conversation.open(session)
        self._open[session.id] = conversation

    def left(self, session: Session) -> None:
        """Forget a conversation that goes on elsewhere, or has ended."""
        self._open.pop(session.id, None)

    async def close(self, report: CleanupReport) -> None:
        """Say in the transcript how the session has ended, and close it. A journal that fails is logged.

        It happens while the store still holds the session, so that a relay which is killed here does it again.
        """
        session = report.session
        if session is None:
            return
        with journal_errors_logged(session):
            conversation = self._open.get(session.id)
            if conversation is None:  # an earlier relay was killed before it came here
                if await self.journal.find(session.id) is not None:
                    return
                conversation = self.conversation()
                await conversation.open(session)
            if not await _says_so(conversation):
                await conversation.publish([notices.ended(report)])
            await conversation.end(session)

    async def forget_old(self, *, days: float) -> int:
        """Forget the transcripts of sessions that ended so long ago; return how many.

        :raises JournalError: the journal fails.
        """
        before = self._clock.now() - timedelta(days=days)
        count = 0
        while old := await self.journal.ended(SessionFilter(), before=before, limit=_PAGE):
            for session in old:
                await self.journal.delete(session.id)
            count += len(old)
        return count


async def _says_so(conversation: Conversation) -> bool:
    """Tell whether the last entry says already that the session has ended."""
    last = await conversation.read(after=conversation.head - 1, limit=1) if conversation.head else ()
    return any(entry.frame.kind is Kind.NOTICE and entry.frame.method == notices.ENDED for entry in last)


@contextmanager
def journal_errors_logged(session: Session) -> Iterator[None]:
    """Let a session end although its transcript cannot say so."""
    try:
        yield
    except JournalError as error:
        logger.warning("the transcript of session %s lacks its end: %s", session.id, error)
