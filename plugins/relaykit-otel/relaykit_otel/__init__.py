"""OpenTelemetry traces for relaykit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.hooks.events import EntriesRecorded, QuestionAnswered
    from relaykit.hooks.registration import Check, PluginContext, Service
    from relaykit.session import Transition
    from relaykit_otel.tracing import Tracing

__all__ = ["OtelPlugin"]


class OtelPlugin:
    """The traces of one relay, if the environment says where they go; else nothing that costs anything.

    :param environ: the environment; by default that of the process.
    """

    def __new__(cls, environ: Mapping[str, str] | None = None) -> OtelPlugin:  # noqa: PYI034 -- of two classes
        """Return a plugin with the hooks that are needed: a relay feeds only those that are there."""
        from relaykit_otel.environment import is_configured

        kind = TracingPlugin if is_configured(_environment(environ)) else OtelPlugin
        return object.__new__(kind)

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = _environment(environ)

    @hookimpl
    def relaykit_register_checks(self, context: PluginContext) -> Sequence[Check]:
        """Have ``relaykit doctor`` say where traces go."""
        from relaykit_otel.checks import checks

        return checks(context.name, self._environ)


class TracingPlugin(OtelPlugin):
    """The same where traces go somewhere."""

    _tracing: Tracing | None = None

    @hookimpl
    def relaykit_register_services(self, context: PluginContext) -> Sequence[Service]:
        """Trace as long as the relay runs, and send what is left at its end."""
        from relaykit.hooks.registration import Service
        from relaykit_otel.tracing import Tracing

        self._tracing = Tracing(self._environ, node=context.node)
        return [Service(name=context.name, open=self._tracing.open)]

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        """Trace lives and spawns."""
        if self._tracing is not None:
            self._tracing.follow(transition)

    @hookimpl
    async def relaykit_on_entries(self, batch: EntriesRecorded) -> None:
        """Trace turns."""
        if self._tracing is not None:
            self._tracing.hear(batch)

    @hookimpl
    async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
        """Trace how long questions wait."""
        if self._tracing is not None:
            self._tracing.answered(question)


def _environment(given: Mapping[str, str] | None) -> Mapping[str, str]:
    import os

    return os.environ if given is None else given
