"""A host application with an agent that ends at nothing: ``python host_that_forks.py LOOP [fork]``.

Says the id of its run; with ``fork``, it has a child then that has inherited every descriptor, and whose pid it
says too.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import anyio

from support.acp_agents import Recorder, echo, launcher, new_session


async def main() -> None:
    async with launcher() as opened:
        await opened.launch(echo("--ignore-signals"), new_session(), Path.cwd(), Recorder())
        said = [opened._household.watcher.run]
        if "fork" in sys.argv:
            child = os.fork()
            if child == 0:
                os.close(1)
                _live_on()
            said.append(str(child))
        sys.stdout.write(f"{' '.join(said)}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


def _live_on() -> NoReturn:
    time.sleep(600)
    os._exit(0)


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
