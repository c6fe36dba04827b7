"""Calls: what clients ask of an agent besides prompts. What it answers is in the transcript, under the same ref."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.errors import SessionNotActive
from relaykit.relay.admission import Admission
from relaykit.relay.rest import Presence, Rest
from relaykit.relay.telling import Telling
from relaykit.relay.turn_queue import ToItsEnd


class Calls:
    """Puts the CALLs of one session to its agent.

    :param has_agent: tells whether a frame that is sent now reaches an agent.
    :param send: gives a frame to the agent.
    :param to_its_end: what is recorded is also sent.
    """

    def __init__(
        self,
        session_id: str,
        conversation: Conversation,
        *,
        admission: Admission,
        rest: Rest,
        has_agent: Callable[[], bool],
        send: Callable[[Frame], None],
        to_its_end: ToItsEnd,
        telling: Telling,
    ) -> None:
        self._session_id = session_id
        self._conversation = conversation
        self._admission = admission
        self._rest = rest
        self._has_agent = has_agent
        self._send = send
        self._to_its_end = to_its_end
        self._telling = telling

    async def put(self, method: str, body: bytes, *, client_id: str, ref: str, by: str = "") -> None:
        """Put a request to the agent that is no prompt. The RESULT in the transcript has the same `ref`.

        An agent that sleeps is woken first.

        :param body: raw JSON of the params, without a session id.
        :param ref: a fresh id for the call.
        :param by: who asks, for plugins; by default the client's id.
        :raises SessionNotActive: the session has no agent now.
        :raises SpawnError: the agent could not be woken.
        :raises Refused: a policy said no to a change of mode.
        """
        frame = Frame(Kind.CALL, body, ref, method)
        await self._admission.call(frame, client_id)
        if self._rest.presence is not Presence.AWAKE:
            await self._rest.until_awake()
        if not self._has_agent():
            raise SessionNotActive(self._session_id, (await self._admission.session()).state)
        await self._to_its_end(partial(self._make, frame, client_id, by or client_id))

    async def cancel(self, ref: str) -> None:
        """Tell the agent that nobody needs the answer to a CALL any more. It answers all the same."""
        await self._to_its_end(partial(self._pass_on, Frame(Kind.CANCEL, ref=ref, method="$/cancel_request")))

    async def _make(self, frame: Frame, client_id: str, by: str) -> None:
        await self._pass_on(frame)
        await self._telling.call_made(frame, client_id=client_id, by=by)

    async def _pass_on(self, frame: Frame) -> None:
        await self._conversation.publish([frame])
        self._send(frame)
