"""Connection: one client of the relay protocol."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.types import Message

from relaykit.errors import RelaykitError
from relaykit.session import Session
from relaykit_gateway.channel import PROTOCOL_ERROR, Channel, ClientGone
from relaykit_gateway.codes import Code, code_of
from relaykit_gateway.follower import Follower
from relaykit_gateway.wire import VERSION, BadMessage, compose, compose_error, parse, raw_json, timestamp

logger = logging.getLogger(__name__)


class Connection(Channel[Follower]):
    """A client of ``/ws``."""

    protocol = "ws"

    async def send(self, message: Mapping[str, Any], /) -> None:
        """Send one JSON object to this client.

        :raises ClientGone: there is nobody to hear it.
        """
        await self.send_text(raw_json({"version": VERSION, **message}).decode())

    async def follow(
        self, session: Session, *, after: int = 0, epoch: str | None = None, announce: bool = True
    ) -> None:
        """Begin to follow a session; what followed it before ends, in any case.

        :param announce: say that the client is attached, and when it has caught up.
        :raises SessionNotFound: there is no such session.
        :raises CursorAhead: there is no entry `after` yet.
        """
        follower = Follower(self, session, announce=announce)
        await self._replace(follower)
        await self._start(follower, after=after, epoch=epoch)

    async def _welcome(self) -> None:
        established = compose(
            "connection:established",
            serverId=self.gateway.server_id,
            clientRole=self.access.role,
            timestamp=timestamp(self.relay.clock.now()),
        )
        await self.send_text(established)

    async def _act_on(self, event: Message) -> None:
        about: dict[str, str] = {}
        try:
            text = event.get("text")
            if text is None:
                raise BadMessage(Code.INVALID_MESSAGE, "a message is text: binary frames are not understood")
            message = parse(text, max_bytes=self.gateway.settings.max_message_bytes)
            about = {
                key: message[key] for key in ("sessionId", "agentId") if isinstance(message.get(key), str)
            }
            await self.gateway.messages.handle(self, message)
        except ClientGone:
            raise
        except BadMessage as bad:
            await self._complain(bad.code, str(bad), about)
        except Exception as error:
            code = code_of(error)
            if code is Code.INTERNAL or not isinstance(error, RelaykitError):
                logger.exception("a message of client %s could not be acted on", self.id)
                await self._complain(Code.INTERNAL, "the relay failed; its log says how", about)
            else:
                await self._complain(code, str(error), about)

    async def _complain(self, code: Code, message: str, about: Mapping[str, str]) -> None:
        await self.send_text(compose_error(code, message, **about))
        if code is Code.VERSION_MISMATCH:
            await self.close(PROTOCOL_ERROR, "version mismatch")
