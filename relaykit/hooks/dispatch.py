"""Calls the asynchronous hooks, and is alone in doing so: typed, one after the other, each under a deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio

from relaykit.errors import Refused
from relaykit.hooks.events import CleanupFailed
from relaykit.meter import HOOK_FAILURES, HOOK_SECONDS, NO_METER

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from relaykit.clock import Clock
    from relaykit.hooks.events import (
        AccessRefused,
        CallMade,
        ClientAttached,
        ClientDetached,
        EntriesRecorded,
        FellAsleep,
        ModeRequest,
        PermissionRequest,
        PromptRequest,
        QuestionAnswered,
        QuestionAsked,
        SessionRequest,
        TurnEnded,
        TurnStarted,
        WokeUp,
    )
    from relaykit.hooks.plugin_set import PluginSet
    from relaykit.meter import Meter
    from relaykit.session.cleaner import CleanerResult
    from relaykit.session.model import Session
    from relaykit.session.state_machine import Transition

logger = logging.getLogger(__name__)

PATIENCE = 3
"""Overruns in a row after which an observer is called no more."""

LAST_MOMENT = 1.0
"""Seconds that an implementation has to end in once it was cancelled; then nobody waits for it any more."""


@dataclass(slots=True)
class _Listener:
    """One implementation of one hook."""

    plugin: str
    hook: str
    function: Callable[..., Any]
    arguments: int  # how many it takes: see `Implementation`
    overruns: int = 0
    off: bool = False
    stuck: _Call | None = None  # one that cannot be ended, and was left to itself


@dataclass(slots=True)
class _Call:
    """How one call of an implementation went. Until it has ended, it counts as overrun.

    :param finished: it returned; if not, `error` is what it raised, or None for a cancellation.
    :param leaked: it left a task group or a cancel scope open; `error` is the event loop's complaint.
    """

    scope: anyio.CancelScope  # with its deadline
    ended: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None
    result: object = None
    finished: bool = False
    overran: bool = True
    leaked: bool = False


class Dispatcher:
    """Tells plugins what happened, and asks them what may happen.

    Implementations are awaited one after the other, in pluggy's order, each in a task of its own under its own
    deadline. Methods may be called concurrently from any task of one loop. A hook without implementations
    costs nothing: its method returns without a checkpoint.

    The methods for ``on`` hooks never raise. What an implementation raises is logged, counted, and changes
    nothing. One that overruns its deadline three times in a row is switched off. The methods for ``check``
    hooks raise `Refused`, with the plugin and the hook filled in, if an implementation refuses, fails, overruns,
    or returns anything but None, as one might who wants to refuse by False: the first to do so ends the asking. A
    check is never switched off.

    An implementation that blocks the loop cannot be stopped at its deadline; it counts as overrun once it ends. One
    that shields itself from cancellation, as who waits for a thread does, is left to itself a moment after its
    deadline: an observer is switched off at once then, and a check refuses until it has ended.

    :param timeout: seconds that each implementation may take.
    :param tasks: where implementations run; it outlives everything that is told or asked.
    :param interests: of plugins that have said so, the only ``on`` hooks that are called.
    :param on_switch_off: called with plugin, hook and reason when an implementation was switched off.
    """

    def __init__(
        self,
        plugins: PluginSet,
        *,
        clock: Clock,
        tasks: TaskGroup,
        meter: Meter = NO_METER,
        timeout: float = 5.0,
        interests: Mapping[str, Collection[str]] = MappingProxyType({}),
        on_switch_off: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._plugins = plugins
        self._clock = clock
        self._meter = meter
        self._timeout = timeout
        self._tasks = tasks
        self._on_switch_off = on_switch_off
        self._listeners: dict[str, tuple[_Listener, ...]] = {
            hook: tuple(
                _Listener(found.plugin, hook, found.function, len(found.argnames))
                for found in plugins.implementations(hook)
                if hook.startswith("relaykit_check_") or hook in interests.get(found.plugin, (hook,))
            )
            for hook in plugins.asynchronous_hooks()
        }
        self._called = tuple(chain.from_iterable(self._listeners.values()))
        for listener in self._called:
            meter.expect(HOOK_SECONDS, plugin=listener.plugin, hook=listener.hook)
            meter.expect(HOOK_FAILURES, plugin=listener.plugin, hook=listener.hook)

    def listens_to(self, hook: str) -> bool:
        """Tell whether anybody implements a hook, and was not switched off.

        :raises KeyError: there is no such hook, or it is a register hook.
        """
        return bool(self._listeners[hook])

    # ------------------------------------------------------------ observers

    @property
    def listening(self) -> bool:
        """Whether anybody hears of transitions or of failed cleanups."""
        return self.listens_to("relaykit_on_transition") or self.listens_to("relaykit_on_cleanup_failed")

    async def transitioned(self, transition: Transition, /) -> None:
        """Tell that a transition was committed."""
        await self._tell("relaykit_on_transition", transition)

    async def cleanup_failed(self, session: Session, result: CleanerResult, /) -> None:
        """Tell that a cleaner failed."""
        await self._tell("relaykit_on_cleanup_failed", CleanupFailed(session=session, result=result))

    async def client_attached(self, client: ClientAttached, /) -> None:
        """Tell that a client began to follow a session."""
        await self._tell("relaykit_on_client_attached", client)

    async def client_detached(self, client: ClientDetached, /) -> None:
        """Tell that a client stopped following a session."""
        await self._tell("relaykit_on_client_detached", client)

    async def access_refused(self, refusal: AccessRefused, /) -> None:
        """Tell that somebody was not let in."""
        await self._tell("relaykit_on_access_refused", refusal)

    async def call_made(self, call: CallMade, /) -> None:
        """Tell that a client asked something of the agent besides a prompt."""
        await self._tell("relaykit_on_call", call)

    async def turn_started(self, turn: TurnStarted, /) -> None:
        """Tell that a prompt went to the agent."""
        await self._tell("relaykit_on_turn_started", turn)

    async def turn_ended(self, turn: TurnEnded, /) -> None:
        """Tell that the agent's turn is over."""
        await self._tell("relaykit_on_turn_ended", turn)

    async def asleep(self, sleep: FellAsleep, /) -> None:
        """Tell that a session's agent is not there any more, and the session is."""
        await self._tell("relaykit_on_asleep", sleep)

    async def awake(self, waking: WokeUp, /) -> None:
        """Tell that a session's agent was started again."""
        await self._tell("relaykit_on_awake", waking)

    async def question_asked(self, question: QuestionAsked, /) -> None:
        """Tell that the agent asks something."""
        await self._tell("relaykit_on_question_asked", question)

    async def question_answered(self, question: QuestionAnswered, /) -> None:
        """Tell how a question was answered."""
        await self._tell("relaykit_on_question_answered", question)

    async def entries(self, batch: EntriesRecorded, /) -> None:
        """Tell what was said. Called by a cursor's task, never by the conversation itself."""
        await self._tell("relaykit_on_entries", batch)

    # ------------------------------------------------------------ policy

    async def check_session(self, request: SessionRequest, /) -> None:
        """Ask whether a session may be made.

        :raises Refused: no.
        """
        await self._ask("relaykit_check_session", request)

    async def check_prompt(self, request: PromptRequest, /) -> None:
        """Ask whether a prompt may go to the agent.

        :raises Refused: no.
        """
        await self._ask("relaykit_check_prompt", request)

    async def check_permission(self, request: PermissionRequest, /) -> None:
        """Ask whether the agent's request for permission may go to people.

        :raises Refused: no, decline it.
        """
        await self._ask("relaykit_check_permission", request)

    async def check_mode(self, request: ModeRequest, /) -> None:
        """Ask whether the agent's mode or options may be changed.

        :raises Refused: no.
        """
        await self._ask("relaykit_check_mode", request)

    # ------------------------------------------------------------ calls

    async def _tell(self, hook: str, argument: object) -> None:
        for listener in self._listeners[hook]:
            if listener.off:
                continue
            call = await self._call(listener, argument)
            if call.overran or not call.finished:
                self._failed(listener, call)
            listener.overruns = listener.overruns + 1 if call.overran else 0
            if (listener.stuck or listener.overruns >= PATIENCE) and not listener.off:
                self._switch_off(listener)

    async def _ask(self, hook: str, argument: object) -> None:
        for listener in self._listeners[hook]:
            call = await self._call(listener, argument)
            if isinstance(call.error, Refused):
                raise Refused(call.error.reason, plugin=listener.plugin, hook=hook) from call.error
            if call.overran or not call.finished or call.result is not None:
                why = self._failed(listener, call)
                raise Refused(why, plugin=listener.plugin, hook=hook) from call.error

    async def _call(self, listener: _Listener, argument: object) -> _Call:
        """Run one implementation, until its deadline."""
        deadline = anyio.current_time() + self._timeout
        call = _Call(anyio.CancelScope(deadline=deadline, shield=True))
        if listener.stuck is not None and not listener.stuck.ended.is_set():
            return call  # as overrun: one more would wait for what that one waits for
        started = self._clock.monotonic()
        self._tasks.start_soon(_run, listener, argument, call)
        await self._until_over(call)
        if not call.ended.is_set():  # else another session's call may be stuck all the same
            listener.stuck = call
        seconds = self._clock.monotonic() - started
        self._meter.observe(HOOK_SECONDS, seconds, plugin=listener.plugin, hook=listener.hook)
        return call

    async def _until_over(self, call: _Call) -> None:
        """Wait until a call has ended, or cannot be ended. Cancelled, it cancels the call."""
        try:
            with anyio.CancelScope(deadline=call.scope.deadline):
                await call.ended.wait()
        finally:
            if not call.ended.is_set():
                call.scope.cancel()
                with anyio.move_on_after(LAST_MOMENT, shield=True):
                    await call.ended.wait()

    def leave(self) -> None:
        """Say which implementations hold up the end of `tasks`, because they cannot be ended."""
        for listener in self._called:
            if listener.stuck is not None and not listener.stuck.ended.is_set():
                logger.error(
                    "plugin %r: its %s has not ended, and cannot be: the relay's end waits for it",
                    listener.plugin,
                    listener.hook,
                )

    def _failed(self, listener: _Listener, call: _Call) -> str:
        """Log and count a call that failed, and return for people how."""
        if call.overran:
            failure, how = "overrun", f"took longer than {self._timeout:g} s"
        elif call.leaked:
            failure, how = "error", "left a task group or a cancel scope open"
        elif call.finished:
            kind = type(call.result).__name__
            failure, how = "error", f"returned a {kind}: raise Refused to refuse, return None to allow"
        else:
            # What the error says may not be for every client's eyes: it is in the log alone.
            kind = type(call.error).__name__ if call.error else "a cancellation that was not its own to raise"
            failure, how = "error", f"failed: {kind}"
        logger.error("plugin %r: its %s %s", listener.plugin, listener.hook, how, exc_info=call.error)
        self._meter.count(HOOK_FAILURES, plugin=listener.plugin, hook=listener.hook, failure=failure)
        return f"its {listener.hook} {how}"

    def _switch_off(self, listener: _Listener) -> None:
        listener.off = True
        why = "and could not be ended" if listener.stuck else f"{PATIENCE} times in a row"
        reason = f"its {listener.hook} took longer than {self._timeout:g} s, {why}"
        self._listeners[listener.hook] = tuple(
            other for other in self._listeners[listener.hook] if other is not listener
        )
        self._plugins.switch_off(listener.plugin, reason)
        logger.error("plugin %r is switched off: %s", listener.plugin, reason)
        self._meter.count(HOOK_FAILURES, plugin=listener.plugin, hook=listener.hook, failure="switched_off")
        if self._on_switch_off is not None:
            try:
                self._on_switch_off(listener.plugin, listener.hook, reason)
            except Exception:  # what was being told goes on, whatever becomes of this
                logger.exception(
                    "plugin %r is switched off, but that could not be passed on", listener.plugin
                )


async def _run(listener: _Listener, argument: object, call: _Call) -> None:
    """Run one implementation in a task of its own.

    In the caller's task, a cancellation that a plugin lets out by mistake (it awaited something that was
    cancelled) would look like the caller's own, and end the session's news. From a task it ends that task alone.
    """
    try:
        with call.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_implementation, listener, argument, call)
    except Exception as error:  # noqa: BLE001 -- what it raised is in `call` already
        call.error, call.finished, call.leaked = error, False, True
    finally:
        call.ended.set()


async def _implementation(listener: _Listener, argument: object, call: _Call) -> None:
    try:
        call.result = await listener.function(*(argument,) * listener.arguments)
        call.finished = True
    except Exception as error:  # noqa: BLE001 -- logged and counted by the dispatcher
        call.error = error
    finally:
        # Also one that returned behind its deadline overran it: it blocked the loop, or shielded itself.
        call.overran = anyio.current_time() >= call.scope.deadline
