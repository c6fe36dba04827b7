"""(d) Memory of the relay's own process for each idle session, and for each idle client, at 1,000."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from figures import Figure
from support.servers import relay
from support.talk import Talker

COUNT = 1000
AT_ONCE = 8
AIM_KB = 60


def measure_memory(*, scale: float) -> Sequence[Figure]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the relay inherits it: three pipes an agent
    count = int(COUNT * scale)
    with relay() as server, ExitStack() as stack:
        talkers = [stack.enter_context(Talker(server)) for _ in range(AT_ONCE)]
        first = talkers[0].create("first")  # what is paid once is not counted
        before = server.memory()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(_create, talkers, [range(at, count, AT_ONCE) for at in range(AT_ONCE)]))
        per_session = (server.memory() - before) / count / 1000

        before = server.memory()
        clients = [stack.enter_context(Talker(server)) for _ in range(count)]
        for client in clients:
            client.say("session:attach", sessionId=first)
            client.wait_for("session:caught_up")
        per_client = (server.memory() - before) / count / 1000
    return [
        Figure(
            name=f"memory of an idle session, at {count}",
            value=per_session,
            unit="kB",
            target=f"≤ {AIM_KB} kB",
            met=per_session <= AIM_KB,
        ),
        Figure(name=f"memory of an idle client, at {count}", value=per_client, unit="kB"),
    ]


def _create(talker: Talker, numbers: range) -> None:
    for number in numbers:
        talker.create(f"role-{number}")
