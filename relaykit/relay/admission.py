"""Admission: what clients ask of an agent is let through, or refused, before anything is done."""

from __future__ import annotations

from relaykit.conversation.frame import Frame
from relaykit.errors import SessionNotActive, SessionNotFound, StoreError
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import ModeRequest, PromptRequest
from relaykit.session.manager import Manager
from relaykit.session.model import Session, SessionState

_MODE_CALLS = frozenset({"session/set_mode", "session/set_model", "session/set_config_option"})
"""The CALLs that can switch an agent to where it asks nobody any more: policies hear of them first."""


class Admission:
    """Asks the session's state, and the policies, about one session.

    :ivar known: the session as it is where the Manager does not know it any more: as it ended.
    """

    def __init__(self, session: Session, manager: Manager, dispatcher: Dispatcher) -> None:
        self.known = session
        self._session_id = session.id
        self._manager = manager
        self._dispatcher = dispatcher

    async def session(self) -> Session:
        """Return the session as it is now.

        :raises SessionNotFound: it has ended.
        """
        session = await self._manager.get(self._session_id)
        if session is None:
            raise SessionNotFound(self._session_id)
        return session

    async def latest(self) -> Session:
        """Return the session as it is now, or as it ended."""
        try:
            return await self._manager.get(self._session_id) or self.known
        except StoreError:
            return self.known

    async def active_session(self) -> Session:
        """Return the session, if it takes messages.

        :raises SessionNotFound: it has ended.
        :raises SessionNotActive: it does not, or not yet, or not any more.
        """
        session = await self.session()
        if session.state is not SessionState.ACTIVE:
            raise SessionNotActive(self._session_id, session.state)
        return session

    async def prompt(self, body: bytes, client_id: str) -> None:
        """Let a prompt through.

        :raises SessionNotActive: as `active_session`.
        :raises Refused: a policy said no.
        """
        session = await self.active_session()
        if self._dispatcher.listens_to("relaykit_check_prompt"):
            request = PromptRequest(session=session, client_id=client_id, body=body)
            await self._dispatcher.check_prompt(request)
            await self.active_session()  # it may have ended while the policies thought

    async def call(self, call: Frame, client_id: str) -> None:
        """Let a CALL through.

        :raises SessionNotActive: as `active_session`.
        :raises Refused: a policy said no to a change of mode.
        """
        session = await self.active_session()
        if call.method in _MODE_CALLS and self._dispatcher.listens_to("relaykit_check_mode"):
            await self._dispatcher.check_mode(ModeRequest(session=session, client_id=client_id, call=call))
            await self.active_session()
