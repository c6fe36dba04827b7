"""What a session is: immutable facts, and the handle to its live half."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

import anyio

from relaykit.errors import InvalidAgentId

Json = Mapping[str, Any]

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


class SessionState(StrEnum):
    """Where a session is in its life."""

    CREATED = "CREATED"
    SPAWNING = "SPAWNING"
    ACTIVE = "ACTIVE"
    TERMINATING = "TERMINATING"
    CLEANED = "CLEANED"


class Cause(StrEnum):
    """Why a session ends: the enumerated half; `Session.reason` says the same to people."""

    REQUESTED = "REQUESTED"
    SPAWN_FAILED = "SPAWN_FAILED"
    AGENT_EXITED = "AGENT_EXITED"
    IDLE = "IDLE"
    GRACE = "GRACE"
    LIMIT = "LIMIT"
    SHUTDOWN = "SHUTDOWN"
    RESTART = "RESTART"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Activity:
    """When a session was last heard of, and how many messages it has relayed. Not versioned."""

    last_active: datetime
    message_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation with one agent, as it was at one version.

    :param agent_id: the role; one live session per owner, project and role.
    :param agent: the configured program's name.
    :param node: the relay that runs it.
    :param version: 1 at creation, one more at each save, without holes.
    :param ended_at: when it became CLEANED.
    :param resources: what was acquired for the session, by plugin, recorded before it was acquired.
        The values are JSON, frozen at construction (mappings read-only, lists as tuples); cleaners and
        recovery work from these alone.
    """

    id: str
    agent_id: str
    agent: str
    owner: str
    project: str
    node: str
    created_at: datetime
    activity: Activity
    state: SessionState = SessionState.CREATED
    version: int = 1
    worktree_dir: str | None = None
    cause: Cause | None = None
    reason: str | None = None
    ended_at: datetime | None = None
    resources: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if type(self.resources) is not MappingProxyType:  # else it was frozen already
            object.__setattr__(self, "resources", freeze(self.resources))

    def with_activity(self, activity: Activity) -> Session:
        """Return the same version with another activity."""
        return self.evolve(activity=activity)

    def evolve(self, **changes: Any) -> Session:
        """Return a copy with other values in these fields: `dataclasses.replace` at half its cost."""
        copy = object.__new__(Session)
        for name in self.__slots__:
            object.__setattr__(copy, name, changes[name] if name in changes else getattr(self, name))
        return copy


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions to list or count: those that equal every field that is not None."""

    state: SessionState | None = None
    agent_id: str | None = None
    owner: str | None = None
    project: str | None = None
    node: str | None = None

    def matches(self, session: Session) -> bool:
        """Tell whether the session has every value that is asked for."""
        return (
            (self.state is None or session.state is self.state)
            and (self.agent_id is None or session.agent_id == self.agent_id)
            and (self.owner is None or session.owner == self.owner)
            and (self.project is None or session.project == self.project)
            and (self.node is None or session.node == self.node)
        )


class Closable(Protocol):
    """What a Handle knows of an agent and of a connection."""

    async def aclose(self) -> None:
        """Release everything. Idempotent: the second call finds nothing to do."""
        ...


@dataclass(slots=True)
class Handle:
    """This node's live half of a session. Never stored; None after a restart.

    :param connection: whatever can be closed; in the relay it is the Conversation, never a socket.
    :param scope: entered by the session's own task alone. Any task of the loop may cancel it, also before
        it is entered; the Manager does so as soon as the session is TERMINATING.
    :param agent: set by `Manager.attach_agent`.
    """

    connection: Closable
    scope: anyio.CancelScope
    agent: Closable | None = None


def freeze(value: Any) -> Any:
    """Return a copy of a JSON value that cannot be changed: mappings are read-only, lists become tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def check_agent_id(agent_id: object) -> str:
    """Return `agent_id` if it may name a directory and a branch.

    :raises InvalidAgentId: it is not 1 to 64 of ``a-z A-Z 0-9 _ -``, beginning with a letter or a digit.
    """
    if not isinstance(agent_id, str) or _AGENT_ID.fullmatch(agent_id) is None:
        raise InvalidAgentId(agent_id)
    return agent_id
