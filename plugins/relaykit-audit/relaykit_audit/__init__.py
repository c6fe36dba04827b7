"""An append-only record of who did what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.hooks.events import (
        AccessRefused,
        CallMade,
        ClientAttached,
        ClientDetached,
        QuestionAnswered,
        TurnStarted,
    )
    from relaykit.hooks.registration import PluginContext, Service
    from relaykit.session import Transition
    from relaykit_audit.file import AuditFile

__all__ = ["AuditPlugin"]


class AuditPlugin:
    """The record of one relay."""

    def __init__(self) -> None:
        self._file: AuditFile | None = None

    @hookimpl
    def relaykit_register_settings(self) -> type:
        """Declare ``[plugins.audit]``."""
        from relaykit_audit.settings import AuditSettings

        return AuditSettings

    @hookimpl
    def relaykit_register_services(self, context: PluginContext) -> Sequence[Service]:
        """Open the file before anything happens: where it cannot be written, the relay does not start."""
        from relaykit.hooks.registration import Service
        from relaykit_audit.file import AuditFile

        self._file = AuditFile.of(context.settings, context.state_dir / context.name)
        return [Service(name=context.name, open=self._file.held)]

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        """Record that a session was created, is stopped, or was cleaned up."""
        from relaykit_audit.records import of_transition

        if record := of_transition(transition):
            await self._write(record)

    @hookimpl
    async def relaykit_on_client_attached(self, client: ClientAttached) -> None:
        """Record who begins to follow a session."""
        from relaykit_audit.records import of_attached

        await self._write(of_attached(client))

    @hookimpl
    async def relaykit_on_client_detached(self, client: ClientDetached) -> None:
        """Record who stops following a session."""
        from relaykit_audit.records import of_detached

        await self._write(of_detached(client))

    @hookimpl
    async def relaykit_on_access_refused(self, refusal: AccessRefused) -> None:
        """Record who was not let in."""
        from relaykit_audit.records import of_refusal

        await self._write(of_refusal(refusal))

    @hookimpl
    async def relaykit_on_turn_started(self, turn: TurnStarted) -> None:
        """Record who prompted."""
        from relaykit_audit.records import of_turn

        await self._write(of_turn(turn))

    @hookimpl
    async def relaykit_on_call(self, call: CallMade) -> None:
        """Record who changed a mode, a model or an option."""
        from relaykit_audit.records import of_call

        await self._write(of_call(call))

    @hookimpl
    async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
        """Record who or what decided."""
        from relaykit_audit.records import of_decision

        await self._write(of_decision(question))

    async def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            await self._file.write(record)
