"""Access: what one client may see and do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from relaykit.errors import NotAllowed
from relaykit.session.model import Session


class Role(StrEnum):
    """What a client may do with what it may see."""

    CONTROLLER = "controller"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a client may see and do. What it may not see is to it as if it did not exist.

    :param owner: whose sessions it sees, and owns what it creates.
    :param all_owners: it sees everybody's sessions.
    :param projects: the only projects that it sees; None for all.
    :param sessions: the ids of the only sessions that it sees; None for all. It creates none then.
    """

    owner: str = "local"
    all_owners: bool = False
    role: Role = Role.CONTROLLER
    projects: frozenset[str] | None = field(default=None)
    sessions: frozenset[str] | None = field(default=None)

    @property
    def is_narrow(self) -> bool:
        """It only watches, or sees only some projects or sessions: if it is stolen, less is lost."""
        return self.role is not Role.CONTROLLER or self.projects is not None or self.sessions is not None

    @property
    def is_everything(self) -> bool:
        """It is what the person has at whose machine the relay runs."""
        return self in {FULL, EVERYTHING}

    def sees(self, session: Session) -> bool:
        """Tell whether the session exists for this client."""
        return (
            (self.all_owners or session.owner == self.owner)
            and (self.projects is None or session.project in self.projects)
            and (self.sessions is None or session.id in self.sessions)
        )

    def check_control(self, what: str) -> None:
        """Let controllers pass.

        :param what: what is to be done, for people: ``to prompt``.
        :raises NotAllowed: it is an observer.
        """
        if self.role is not Role.CONTROLLER:
            raise NotAllowed(what, f"it takes a controller, and this client is an {self.role}")

    def check_creation(self) -> None:
        """Let pass who may create sessions, in a project that it sees.

        :raises NotAllowed: it is an observer, or is for certain sessions alone.
        """
        self.check_control("to create a session")
        if self.sessions is not None:
            raise NotAllowed("to create a session", "this client's token is for certain sessions alone")


FULL = Access()
"""Everything of the owner ``local``."""

EVERYTHING = Access(all_owners=True)
"""Everything, of whomever."""
