"""``relaykit doctor``: looks at everything that a relay needs, and says what is wrong and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command, Verdict

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from relaykit.commands.examination import Found
    from relaykit.commands.invocation import Invocation

TROUBLE = 1


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> int:
    import logging
    import os

    import anyio

    from relaykit.commands.examination import examine

    logger = logging.getLogger("relaykit")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what is a warning there is a line here
    try:
        found = anyio.run(examine, cast("Invocation", arguments), os.environ)
    finally:
        logger.setLevel(level)
    if arguments.json:
        import json

        print(
            json.dumps(
                [
                    {"check": each.check, "verdict": each.verdict, "what": each.what, "fix": each.fix}
                    for each in found
                ],
                indent=2,
            )
        )
    else:
        _print(found)
    return TROUBLE if any(each.verdict is Verdict.TROUBLE for each in found) else 0


def _print(found: Sequence[Found]) -> None:
    width = max(len(each.check) for each in found)
    for each in found:
        print(f"{each.verdict:7}  {each.check:{width}}  {each.what}")
        if each.fix:
            print(f"{'':7}  {'':{width}}  -> {each.fix}")


DOCTOR = Command(
    name="doctor",
    help="look at everything that a relay needs: what is wrong, and what to do about it",
    configure=_configure,
    run=_run,
)
