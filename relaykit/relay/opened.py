"""What factories of plugins open: checked when it is opened, so that the error names the plugin at fault."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from relaykit.agent.launcher import AgentLauncher
from relaykit.conversation.journal import Journal
from relaykit.errors import PluginLoadError, RelaykitError
from relaykit.hooks.offers import NotAskedFor, demand, like
from relaykit.session.store import Store

T = TypeVar("T")


@asynccontextmanager
async def opened(
    factory: Callable[[], AbstractAsyncContextManager[T]],
    *,
    plugin: str,
    what: str,
    check: Callable[[Any], None] = lambda _: None,
) -> AsyncIterator[T]:
    """Open what a plugin's factory makes, in the caller's own task: it may hold a task group open.

    :param what: its kind and its name, for people.
    :param check: raises NotAskedFor for what is not usable.
    :raises PluginLoadError: the factory fails, or makes no context manager, or one that opens something else.
        What the context manager raises comes as it is.
    """
    try:
        made: Any = factory()
    except RelaykitError:
        raise  # it says already what is wrong and where
    except Exception as error:
        raise PluginLoadError(f"its {what} failed: {error!r}", plugin=plugin) from error
    if not (hasattr(type(made), "__aenter__") and hasattr(type(made), "__aexit__")):
        if inspect.iscoroutine(made):
            made.close()  # nobody will await it
        complaint = f"returned {made!r}, where an asynchronous context manager was asked for"
        raise PluginLoadError(f"its {what} {complaint}", plugin=plugin)
    async with made as value:
        try:
            check(value)
        except NotAskedFor as error:
            complaint = f"opened as {error.offered!r}, {error.complaint}"
            raise PluginLoadError(f"its {what} {complaint}", plugin=plugin) from None
        yield value


def check_storage(value: Any) -> None:
    """Let a store and a journal pass.

    :raises NotAskedFor: it is something else.
    """
    if not isinstance(value, tuple) or len(value) != 2:  # noqa: PLR2004 -- a pair
        raise NotAskedFor(value, "a pair of a Store and a Journal")
    store, journal = value
    demand(store, "a Store", like(Store))
    demand(journal, "a Journal", like(Journal))


def check_launcher(value: Any) -> None:
    """Let a launcher pass.

    :raises NotAskedFor: it is something else.
    """
    demand(value, "an AgentLauncher", like(AgentLauncher))
