"""Judging: what answers an agent's question before any person sees it: policies of plugins, then rules of settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio
from anyio import to_thread

from relaykit.agent.launcher import AgentLauncher, ToolUse
from relaykit.conversation.frame import Frame
from relaykit.errors import Refused
from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.events import PermissionRequest
from relaykit.relay.deciders import ALLOWED, REFUSED, Decider
from relaykit.relay.permission_rules import Ruling, Scene, rule_on
from relaykit.session.model import Session
from relaykit.settings import PermissionRule, RuleAction

_PATIENCE = 5.0
"""Seconds that the disk has to say where symbolic links lead."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer that no person gave."""

    decision: Frame
    decider: Decider


class Judging:
    """Judges the questions of one session.

    :param launcher: of its agent: it knows what a question is about, and how to say yes and no.
    """

    def __init__(
        self, rules: Sequence[PermissionRule], *, launcher: AgentLauncher, dispatcher: Dispatcher
    ) -> None:
        self._rules = rules
        self._launcher = launcher
        self._dispatcher = dispatcher

    @property
    def is_needed(self) -> bool:
        """There is something that may answer."""
        return bool(self._rules) or self._dispatcher.listens_to("relaykit_check_permission")

    async def verdict(self, request: Frame, session: Session) -> Verdict | None:
        """Return how a question is answered, or None: people are to be asked."""
        try:
            await self._dispatcher.check_permission(PermissionRequest(session=session, request=request))
        except Refused as refusal:
            decision = self._launcher.decline(request, cancelled=False)
            return Verdict(decision, Decider(refusal.plugin, REFUSED, refusal.reason))
        use = self._launcher.tool_use(request) if self._rules else None
        ruling = None if use is None else await self._ruling(use, session)
        if ruling is None:
            return None
        allows = ruling.rule.action is RuleAction.ALLOW
        answer = self._launcher.allow(request) if allows else self._launcher.decline(request, cancelled=False)
        if answer is None:
            return None  # the agent offers no yes that we know
        decider = Decider(f"rule {ruling.number}", ALLOWED if allows else REFUSED, str(ruling.rule))
        return Verdict(answer, decider)

    async def _ruling(self, use: ToolUse, session: Session) -> Ruling | None:
        scene = Scene(session.agent, session.project, session.worktree_dir or "")
        judge = partial(rule_on, self._rules, use, scene)
        if not use.locations:
            return judge()
        with anyio.move_on_after(_PATIENCE):
            return await to_thread.run_sync(judge, abandon_on_cancel=True)
        return None
