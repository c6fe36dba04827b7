"""``relaykit serve``: runs a relay with its gateway until it is told to stop."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, cast

from relaykit.errors import RelaykitError
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

    from relaykit.commands.invocation import Invocation
    from relaykit.settings import Settings


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="the address to listen on, instead of [plugins.gateway] host")
    parser.add_argument("--port", type=int, help="the port to listen on, instead of [plugins.gateway] port")
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="what to log on standard error (default: info)",
    )
    parser.add_argument(
        "--log-format",
        default="text",
        choices=("text", "json"),
        help="how to log: text for people, or a JSON object a line (default: text)",
    )


def _run(arguments: argparse.Namespace) -> int:
    from importlib.util import find_spec

    import anyio

    from relaykit.commands.logs import begin_logging

    begin_logging(level=arguments.log_level, log_format=arguments.log_format)
    settings = cast("Invocation", arguments).load_settings()
    given = {key: value for key in ("host", "port") if (value := getattr(arguments, key)) is not None}
    if given:
        settings = settings.with_plugin("gateway", given, origin="the command line")
    anyio.run(serve, settings, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    return 0


async def serve(settings: Settings) -> None:
    """Run a relay until SIGTERM or SIGINT, then end every session in order. A second signal stops at once.

    :raises RelaykitError: no plugin offers a service that listens, or the relay cannot start.
    """
    import logging

    import anyio

    from relaykit.orphans import adopted_orphans
    from relaykit.relay import open_relay

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with adopted_orphans(), open_relay(settings, serve=True) as relay:
            if not relay.listening:
                raise RelaykitError("nothing would listen: install a gateway (pip install relaykit-gateway)")
            for line in relay.announcements:
                print(line, flush=True)
            # What was made until now stays; and transcripts grow by many small objects that refer to nothing:
            # looking through them as often as Python does by default costs a busy relay some percent.
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)
            async for _ in signals:
                break
            logging.getLogger(__name__).warning("ending all sessions; a second signal stops at once")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_stop_at_once, signals)
                await relay.aclose()
                tasks.cancel_scope.cancel()


async def _stop_at_once(signals: AsyncIterable[signal.Signals]) -> None:
    async for number in signals:
        os._exit(128 + number)  # what is left is ended by whoever watches over us, or at the next start


SERVE = Command(
    name="serve",
    help="run a relay with its gateway until it is told to stop",
    configure=_configure,
    run=_run,
)
