"""The life of one session: model, states, store, cleaners, Manager. Knows no plugin and no agent."""

from relaykit.session.blocking import BlockingManager, open_blocking_manager
from relaykit.session.cleaner import (
    Cleaner,
    CleanerResult,
    CleanupReport,
    CloseAgent,
    CloseConnection,
    Outcome,
    Phase,
)
from relaykit.session.encoding import decode_session, encode_session
from relaykit.session.hooks import NO_HOOKS, SessionHooks
from relaykit.session.manager import Manager
from relaykit.session.memory_store import MemoryStore
from relaykit.session.model import (
    Activity,
    Cause,
    Closable,
    Handle,
    Json,
    Session,
    SessionFilter,
    SessionState,
    check_agent_id,
    freeze,
)
from relaykit.session.state_machine import TRANSITIONS, Event, Transition, next_state
from relaykit.session.store import Store

__all__ = [
    "NO_HOOKS",
    "TRANSITIONS",
    "Activity",
    "BlockingManager",
    "Cause",
    "Cleaner",
    "CleanerResult",
    "CleanupReport",
    "Closable",
    "CloseAgent",
    "CloseConnection",
    "Event",
    "Handle",
    "Json",
    "Manager",
    "MemoryStore",
    "Outcome",
    "Phase",
    "Session",
    "SessionFilter",
    "SessionHooks",
    "SessionState",
    "Store",
    "Transition",
    "check_agent_id",
    "decode_session",
    "encode_session",
    "freeze",
    "next_state",
    "open_blocking_manager",
]
