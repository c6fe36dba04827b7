"""Dispatchers over plugins of one hook each, ways in which a hook goes wrong, and an event for every hook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from relaykit.conversation.frame import Frame, Kind
from relaykit.errors import Refused
from relaykit.hooks import hookimpl
from relaykit.hooks.dispatch import Dispatcher
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
from relaykit.hooks.loader import load_plugins
from relaykit.meter import NO_METER, Meter
from relaykit.session import CleanerResult, Outcome, Transition
from relaykit.testing import FakeClock
from relaykit.testing.store_contract import make_session
from support.plugin_sites import settings_from

NOW = FakeClock().now()
SESSION = make_session()
TRANSITION = Transition(before=None, after=SESSION, event=None, actor="test", at=NOW)
REQUEST = SessionRequest(agent_id="auth", agent="echo", project="default", owner="local")
FRAME = Frame(Kind.REQUEST)

SHORT = 0.05
"""A deadline, in seconds, for implementations that never end by themselves."""


def plugin(hook: str, function: Callable[..., Awaitable[None]]) -> object:
    """Return a plugin that implements this one hook."""
    return type("Plugin", (), {hook: staticmethod(hookimpl(function))})()


def dispatcher(
    directory: Path, tasks: TaskGroup, *, meter: Meter = NO_METER, timeout: float = 5.0, **plugins: object
) -> Dispatcher:
    """Return a dispatcher over these plugins alone.

    :param tasks: of the fixture `hook_calls`, in `support.hook_calls`.
    """
    loaded = load_plugins(settings_from(directory), entry_points=(), extra=plugins)
    return Dispatcher(loaded, clock=FakeClock(), tasks=tasks, meter=meter, timeout=timeout)


async def hang(_event: object = None) -> None:
    """Overrun every deadline."""
    await anyio.sleep_forever()


async def fail() -> None:
    """Raise an error."""
    raise RuntimeError("out of order")


async def fail_late() -> None:
    """Raise the error of an overrun that is not ours."""
    raise TimeoutError("its own")


async def let_a_cancellation_out() -> None:
    """End as if it were cancelled, which it is not."""
    raise anyio.get_cancelled_exc_class()


async def refuse() -> None:
    """Refuse, in somebody else's name."""
    raise Refused("not today", plugin="somebody else", hook="another")


EVENTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "relaykit_on_transition": ("transitioned", (TRANSITION,)),
    "relaykit_on_cleanup_failed": ("cleanup_failed", (SESSION, CleanerResult("tidy", Outcome.FAILED))),
    "relaykit_on_client_attached": (
        "client_attached",
        (
            ClientAttached(
                session=SESSION,
                session_id="s1",
                client_id="c1",
                protocol="ws",
                owner="local",
                after=0,
                at=NOW,
            ),
        ),
    ),
    "relaykit_on_client_detached": (
        "client_detached",
        (ClientDetached(session=SESSION, session_id="s1", client_id="c1", protocol="ws", at=NOW),),
    ),
    "relaykit_on_access_refused": (
        "access_refused",
        (AccessRefused(where="/acp", address="127.0.0.1", status=401, reason="no token", at=NOW),),
    ),
    "relaykit_on_call": ("call_made", (CallMade(session=SESSION, call=FRAME, client_id="c1", at=NOW),)),
    "relaykit_on_asleep": (
        "asleep",
        (FellAsleep(session=SESSION, reason="it is late", crashed=False, at=NOW),),
    ),
    "relaykit_on_awake": ("awake", (WokeUp(session=SESSION, at=NOW),)),
    "relaykit_on_turn_started": (
        "turn_started",
        (TurnStarted(session=SESSION, turn="t1", client_id="c1", at=NOW),),
    ),
    "relaykit_on_turn_ended": (
        "turn_ended",
        (TurnEnded(session=SESSION, turn="t1", outcome="done", seconds=1.0, at=NOW),),
    ),
    "relaykit_on_question_asked": (
        "question_asked",
        (QuestionAsked(session=SESSION, request=FRAME, at=NOW),),
    ),
    "relaykit_on_question_answered": (
        "question_answered",
        (
            QuestionAnswered(
                session=SESSION,
                request=FRAME,
                decision=Frame(Kind.DECISION),
                by="c1",
                outcome="answered",
                seconds=1.0,
                at=NOW,
            ),
        ),
    ),
    "relaykit_on_entries": ("entries", (EntriesRecorded(session=SESSION, epoch="e", entries=()),)),
    "relaykit_check_session": ("check_session", (REQUEST,)),
    "relaykit_check_prompt": ("check_prompt", (PromptRequest(session=SESSION, client_id="c1", body=b""),)),
    "relaykit_check_permission": ("check_permission", (PermissionRequest(session=SESSION, request=FRAME),)),
    "relaykit_check_mode": ("check_mode", (ModeRequest(session=SESSION, client_id="c1", call=FRAME),)),
}
"""For each asynchronous hook the dispatcher's method, and arguments for it."""
