"""What register hooks are given, and what they return."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

# Imported for types alone: a plugin's commands are listed without loading the event loop, agents or sessions.
if TYPE_CHECKING:
    from relaykit.agent.launcher import AgentSpec
    from relaykit.clock import Clock
    from relaykit.conversation.journal import Journal
    from relaykit.ids import IdGenerator
    from relaykit.meter import Meter
    from relaykit.relay.relay import Relay
    from relaykit.relay.restricted import RestrictedRelay
    from relaykit.session.model import Session
    from relaykit.session.store import Store

ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]],
    Awaitable[None],
]
"""An application by the ASGI specification, version 3."""

Storage = AbstractAsyncContextManager["tuple[Store, Journal]"]
"""A store and a journal, opened and closed together."""

StorageFactory = Callable[[], Storage]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginContext:
    """What a plugin may know when it registers its parts.

    :param name: the plugin's own name: its entry point, its settings table, its label.
    :param settings: an instance of the dataclass that `relaykit_register_settings` returned; None without one.
    :param projects: each configured project's directory.
    :param agents: every agent that settings or plugins provide; empty while agents are being registered.
    :param state_dir: private to this user; the plugin may keep files in ``state_dir / name``.
    :param node: this relay's name.
    """

    name: str
    settings: Any
    projects: Mapping[str, Path]
    agents: Mapping[str, AgentSpec]
    state_dir: Path
    node: str
    clock: Clock
    ids: IdGenerator
    meter: Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Something that lives as long as the relay.

    :param open: entered once the relay is ready; left when its sessions have ended.
    :param listens: it opens a port: only ``relaykit serve`` starts it, an embedding application does not.
    """

    name: str
    open: Callable[[Relay], AbstractAsyncContextManager[None]]
    listens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An ASGI application that a gateway mounts.

    :param path: absolute, as ``/metrics``.
    :param public: reachable without a token. What is not is for those alone who may do everything.
    """

    path: str
    app: ASGIApp
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A subcommand of ``relaykit``.

    :param configure: adds its arguments.
    :param run: does it, and returns the exit code. A `RelaykitError` that it raises is printed, with exit code 2.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    configure: Callable[[argparse.ArgumentParser], None] = field(default=lambda _parser: None)


class Verdict(StrEnum):
    """What was found where a check has looked."""

    OK = "ok"
    WARNING = "warning"  # it works, and somebody should know
    TROUBLE = "trouble"  # it does not work, or will not


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of ``relaykit doctor``.

    :param what: what is so, for people.
    :param fix: what to do about it; empty if there is nothing to do.
    """

    verdict: Verdict
    what: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a check may know besides its plugin's context.

    :param running: a relay of this state directory runs, and looks after what is its own.
    :param sessions: those that the storage holds, by id; None if that cannot be told, as while a relay runs.
    :param workspace: the workspace that settings choose.
    """

    running: bool
    sessions: Mapping[str, Session] | None
    workspace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Something that ``relaykit doctor`` looks at.

    :param look: looks, changes nothing, and says what it has found. What it raises, and what takes it longer than
        30 seconds, is a trouble.
    """

    name: str
    look: Callable[[Surroundings], Awaitable[Sequence[Finding]]]


class MessageClient(Protocol):
    """One client of the relay protocol, as a message handler sees it."""

    @property
    def relay(self) -> RestrictedRelay:
        """The relay that it is connected to, as this client may use it."""
        ...

    @property
    def owner(self) -> str:
        """Whose sessions it may see."""
        ...

    async def send(self, message: Mapping[str, Any], /) -> None:
        """Send one JSON object to this client."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageType:
    """A type of message that clients of the relay protocol may send.

    :param name: the message's ``type``; ``*`` means every valid message.
    :param replaces: it takes over a built-in type (without this, a built-in name is an error at start).
    """

    name: str
    handle: Callable[[MessageClient, Mapping[str, Any]], Awaitable[None]]
    replaces: bool = False
