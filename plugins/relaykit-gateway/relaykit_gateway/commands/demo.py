"""``relaykit demo``: shows one session, for real, and that nothing is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--with",
        dest="also",
        metavar="PLUGIN",
        action="append",
        default=[],
        help="load this one of the installed plugins too, to see it at work; may be repeated",
    )


def _run(arguments: argparse.Namespace) -> int:
    import logging
    import sys

    import anyio

    from relaykit_gateway.demo.story import run_demo
    from relaykit_gateway.terminal.screen import Screen

    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    return anyio.run(run_demo, Screen.on(sys.stdout), arguments.also)


DEMO = Command(
    name="demo",
    help="watch one session from its first transition to its last, in a scratch repository",
    configure=_configure,
    run=_run,
)
