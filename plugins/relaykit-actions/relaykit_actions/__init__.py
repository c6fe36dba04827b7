"""Hooks in the settings: programs that are run, and webhooks that are posted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.hooks.events import (
        AccessRefused,
        CallMade,
        CleanupFailed,
        ClientAttached,
        ClientDetached,
        FellAsleep,
        QuestionAnswered,
        QuestionAsked,
        TurnEnded,
        TurnStarted,
        WokeUp,
    )
    from relaykit.hooks.registration import Check, PluginContext, Service
    from relaykit.session import Transition
    from relaykit_actions.actions import Actions
    from relaykit_actions.happenings import Happening

__all__ = ["ActionsPlugin"]


class ActionsPlugin:
    """The ``[[hooks]]`` of one relay.

    :param environ: the environment; by default that of the process.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._context: PluginContext | None = None
        self._actions: Actions | None = None

    @hookimpl
    def relaykit_register_settings(self) -> type:
        """Declare ``[plugins.actions]``, and ``[[hooks]]`` with it."""
        from relaykit_actions.settings import ActionsSettings

        return ActionsSettings

    @hookimpl
    def relaykit_register_services(self, context: PluginContext) -> Sequence[Service]:
        """Work as long as the relay runs. What hooks could never do is an error here, before anything happens."""
        from relaykit_actions.figures import ACTIONS

        context.meter.expect(ACTIONS)  # also where there is no hook yet: dashboards show what there may be
        if not context.settings.hooks:
            return []
        from relaykit.hooks.registration import Service
        from relaykit_actions.opening import open_actions

        self._context, self._actions = context, open_actions(context, self._environ)
        return [Service(name=context.name, open=self._actions.open)]

    @hookimpl
    def relaykit_register_interests(self, context: PluginContext) -> Sequence[str]:
        """Hear of what some hook is for, and of nothing else: without hooks this costs nothing."""
        from relaykit_actions.happenings import EVENTS

        return sorted({EVENTS[event].hook for table in context.settings.hooks for event in table.on})

    @hookimpl
    def relaykit_register_checks(self, context: PluginContext) -> Sequence[Check]:
        """Have ``relaykit doctor`` say whether hooks can work."""
        from relaykit_actions.checks import checks

        return checks(context, self._environ)

    # ------------------------------------------------------------ what happens
    # Each only puts it into a queue.

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        """Hear of ``created``, ``spawning``, ``active``, ``terminating`` and ``cleaned``."""
        from relaykit_actions.happenings import of_transition

        self._happened(transition.after.state.lower(), lambda: of_transition(transition))

    @hookimpl
    async def relaykit_on_cleanup_failed(self, failure: CleanupFailed) -> None:
        """Hear of ``cleanup_failed``."""
        from relaykit_actions.happenings import of_cleanup_failed

        if self._context is not None:
            at = self._context.clock.now()
            self._happened("cleanup_failed", lambda: of_cleanup_failed(failure, at))

    @hookimpl
    async def relaykit_on_client_attached(self, client: ClientAttached) -> None:
        """Hear of ``attached``."""
        from relaykit_actions.happenings import of_client

        self._happened("attached", lambda: of_client("attached", client))

    @hookimpl
    async def relaykit_on_client_detached(self, client: ClientDetached) -> None:
        """Hear of ``detached``."""
        from relaykit_actions.happenings import of_client

        self._happened("detached", lambda: of_client("detached", client))

    @hookimpl
    async def relaykit_on_access_refused(self, refusal: AccessRefused) -> None:
        """Hear of ``refused``."""
        from relaykit_actions.happenings import of_refused

        self._happened("refused", lambda: of_refused(refusal))

    @hookimpl
    async def relaykit_on_turn_started(self, turn: TurnStarted) -> None:
        """Hear of ``turn_started``."""
        from relaykit_actions.happenings import of_turn_started

        self._happened("turn_started", lambda: of_turn_started(turn))

    @hookimpl
    async def relaykit_on_turn_ended(self, turn: TurnEnded) -> None:
        """Hear of ``turn_ended``."""
        from relaykit_actions.happenings import of_turn_ended

        self._happened("turn_ended", lambda: of_turn_ended(turn))

    @hookimpl
    async def relaykit_on_asleep(self, sleep: FellAsleep) -> None:
        """Hear of ``asleep`` and ``crashed``."""
        from relaykit_actions.happenings import of_asleep, word_for

        self._happened(word_for(sleep), lambda: of_asleep(sleep))

    @hookimpl
    async def relaykit_on_awake(self, waking: WokeUp) -> None:
        """Hear of ``awake``."""
        from relaykit_actions.happenings import of_awake

        self._happened("awake", lambda: of_awake(waking))

    @hookimpl
    async def relaykit_on_call(self, call: CallMade) -> None:
        """Hear of ``call``."""
        from relaykit_actions.happenings import of_call

        self._happened("call", lambda: of_call(call))

    @hookimpl
    async def relaykit_on_question_asked(self, question: QuestionAsked) -> None:
        """Hear of ``question``."""
        from relaykit_actions.happenings import of_question

        self._happened("question", lambda: of_question(question))

    @hookimpl
    async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
        """Hear of ``answered``."""
        from relaykit_actions.happenings import of_answered

        self._happened("answered", lambda: of_answered(question))

    def _happened(self, event: str, make: Callable[[], Happening]) -> None:
        if self._actions is not None and self._actions.wants(event):
            self._actions.happened(make())
