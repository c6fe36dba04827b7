"""What is said while a session is ACTIVE: frames, the journal, conversations and cursors."""

from relaykit.conversation.conversation import Conversation
from relaykit.conversation.cursor import Batch, Cursor
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry, Journal, JournalState
from relaykit.conversation.memory_journal import MemoryJournal
from relaykit.conversation.permissions import Question, Questions

__all__ = [
    "Batch",
    "Conversation",
    "Cursor",
    "Entry",
    "Frame",
    "Journal",
    "JournalState",
    "Kind",
    "MemoryJournal",
    "Question",
    "Questions",
]
