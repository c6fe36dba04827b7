"""A session's whole life through the Manager, with no server: what the README shows."""

import anyio

from relaykit.clock import SystemClock
from relaykit.ids import SystemIds
from relaykit.session import NO_HOOKS, CloseAgent, CloseConnection, Manager, MemoryStore


class Thing:
    """Whatever can be closed: an agent, a connection."""

    async def aclose(self) -> None: ...


async def main() -> None:
    async with Manager(
        store=MemoryStore(),
        ids=SystemIds(),
        clock=SystemClock(),
        cleaners=[CloseAgent(), CloseConnection()],
        hooks=NO_HOOKS,
    ) as manager:
        session = await manager.create("auth", Thing())  # CREATED
        await manager.begin_spawn(session.id)  # SPAWNING
        await manager.attach_agent(session.id, "/path/to/worktree", Thing())  # ACTIVE
        await manager.increment_message_count(session.id)
        await manager.mark_terminating(session.id, "user requested")  # TERMINATING
        report = await manager.complete_cleanup(session.id)  # CLEANED, and out of the store
        print([f"{result.cleaner}: {result.outcome}" for result in report.results])


if __name__ == "__main__":
    anyio.run(main)
