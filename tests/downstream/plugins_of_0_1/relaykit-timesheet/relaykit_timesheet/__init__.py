"""A timesheet: hears of everything, and writes it down; and whatever else a plugin may register besides parts."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from relaykit.hooks import (
    AccessRefused,
    CallMade,
    Check,
    CleanupFailed,
    ClientAttached,
    ClientDetached,
    Command,
    EntriesRecorded,
    Finding,
    MessageClient,
    MessageType,
    PluginContext,
    QuestionAnswered,
    QuestionAsked,
    Route,
    Service,
    Surroundings,
    Transition,
    TurnEnded,
    TurnStarted,
    Verdict,
    hookimpl,
)
from relaykit.meter import Figure, Meter, Values
from relaykit.relay import Relay
from relaykit.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class TimesheetSettings:
    """``[plugins.timesheet]``."""

    company: str = setting("ACME", help="whose time it is")


class Figures:
    """A meter that keeps totals."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}

    def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
        """Add it."""
        self.observe(figure, amount, **labels)

    def observe(self, figure: Figure, value: float, /, **labels: str) -> None:
        """Add it."""
        assert set(labels) == set(figure.labels)
        self.totals[figure.name] = self.totals.get(figure.name, 0) + value

    def expect(self, figure: Figure, /, **labels: str) -> None:
        """Show nothing before it happens."""

    def watch(self, figure: Figure, read: Callable[[], Values], /) -> None:
        """Keep no gauges."""


class Timesheet:
    """The plugin. One for each relay."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.figures = Figures()
        self.serving: Relay | None = None
        self.company = ""

    def write(self, *words: object) -> None:
        """Write a line."""
        self.lines.append(" ".join(map(str, words)))

    # ------------------------------------------------------------ registration

    @hookimpl
    def relaykit_register_settings(self) -> type:
        """Declare the table."""
        return TimesheetSettings

    @hookimpl
    def relaykit_register_commands(self) -> Sequence[Command]:
        """Add ``relaykit timesheet``."""

        def configure(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("week", type=int)

        def run(arguments: argparse.Namespace) -> int:
            print(f"week {arguments.week}: nothing")
            return 0

        return [Command(name="timesheet", help="print the timesheet", configure=configure, run=run)]

    @hookimpl
    def relaykit_register_checks(self, context: PluginContext) -> Sequence[Check]:
        """Have ``relaykit doctor`` look at the clock."""

        async def look(around: Surroundings) -> Sequence[Finding]:
            alive = len(around.sessions or {})
            what = (
                f"{context.clock.now():%Y}: {alive} sessions, {around.workspace}, running: {around.running}"
            )
            return [Finding(verdict=Verdict.OK if alive == 0 else Verdict.WARNING, what=what, fix="wait")]

        return [Check(name="timesheet", look=look)]

    @hookimpl
    def relaykit_register_services(self, context: PluginContext) -> Sequence[Service]:
        """Be there as long as the relay."""
        self.company = f"{context.settings.company} on {context.node}, as {context.name}"

        @asynccontextmanager
        async def opened(relay: Relay) -> AsyncIterator[None]:
            self.serving = relay
            yield
            self.serving = None

        return [Service(name="timesheet", open=opened, listens=False)]

    @hookimpl
    def relaykit_register_routes(self) -> Sequence[Route]:
        """Show it."""

        async def app(
            scope: Mapping[str, Any],
            receive: Callable[[], Awaitable[Any]],
            send: Callable[[Any], Awaitable[None]],
        ) -> None:
            assert scope["type"] == "http"
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": "\n".join(self.lines).encode()})

        return [Route(path="/timesheet", app=app, public=False)]

    @hookimpl
    def relaykit_register_messages(self) -> Sequence[MessageType]:
        """Answer ``timesheet:read``."""

        async def answer(client: MessageClient, message: Mapping[str, Any]) -> None:
            await client.send({"type": message["type"], "owner": client.owner, "lines": self.lines})

        return [MessageType(name="timesheet:read", handle=answer)]

    @hookimpl
    def relaykit_register_meter(self) -> Meter:
        """Keep figures."""
        return self.figures

    # ------------------------------------------------------------ observers

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        """Write it down."""
        before, after = transition.before, transition.after
        self.write(before.state if before else "-", transition.event, after.state, after.cause, after.reason)
        assert (after.agent_id, after.agent, after.owner, after.project) == (
            "auth",
            "fake",
            "local",
            "default",
        )
        assert after.version == (before.version + 1 if before else 1)
        assert transition.actor
        assert transition.at >= after.created_at
        assert after.activity.message_count >= 0
        assert (after.ended_at is not None) is (after.state == "CLEANED")

    @hookimpl
    async def relaykit_on_cleanup_failed(self, failure: CleanupFailed) -> None:
        """Write it down."""
        result = failure.result
        self.write("cleanup", failure.session.agent_id, result.cleaner, result.outcome, result.detail)

    @hookimpl
    async def relaykit_on_client_attached(self, client: ClientAttached) -> None:
        """Write it down."""
        assert client.session_id
        assert client.at
        self.write(
            "in", client.client_id, client.protocol, client.owner, client.after, client.role, client.by
        )

    @hookimpl
    async def relaykit_on_client_detached(self, client: ClientDetached) -> None:
        """Write it down."""
        assert client.session_id
        assert client.at
        self.write("out", client.client_id, client.protocol, client.role, client.by)

    @hookimpl
    async def relaykit_on_access_refused(self, refusal: AccessRefused) -> None:
        """Write it down."""
        assert refusal.at
        self.write("refused", refusal.where, refusal.address, refusal.status, refusal.reason)

    @hookimpl
    async def relaykit_on_turn_started(self, turn: TurnStarted) -> None:
        """Write it down."""
        assert turn.at
        self.write("turn", turn.session.agent_id, turn.turn, turn.client_id, turn.by)

    @hookimpl
    async def relaykit_on_turn_ended(self, turn: TurnEnded) -> None:
        """Write it down."""
        assert turn.at
        self.write("over", turn.session.agent_id, turn.turn, turn.outcome, turn.seconds)

    @hookimpl
    async def relaykit_on_call(self, call: CallMade) -> None:
        """Write it down."""
        assert call.at
        self.write("call", call.session.agent_id, call.call.method, call.call.body, call.client_id, call.by)

    @hookimpl
    async def relaykit_on_question_asked(self, question: QuestionAsked) -> None:
        """Write it down."""
        assert question.at
        self.write("asked", question.session.agent_id, question.request.kind, question.request.method)

    @hookimpl
    async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
        """Write it down."""
        assert question.session
        assert question.at
        assert question.request.ref == question.decision.ref
        self.write(
            "answered", question.by, question.outcome, question.seconds, question.reason, question.client_id
        )

    @hookimpl
    async def relaykit_on_entries(self, batch: EntriesRecorded) -> None:
        """Write the prompts down."""
        assert batch.epoch
        for entry in batch.entries:
            assert entry.at
            assert entry.frame.failed in {True, False}
            if entry.frame.kind == "PROMPT":
                self.write("said", batch.session.agent_id, entry.frame.ref, entry.frame.body)
