"""A session's whole life through the Manager, with no server: what the README shows."""

import anyio

from relaykit.clock import SystemClock
from relaykit.errors import DuplicateRole, InvalidAgentId, TransitionError
from relaykit.ids import SystemIds
from relaykit.session import (
    NO_HOOKS,
    CloseAgent,
    CloseConnection,
    Manager,
    MemoryStore,
    SessionFilter,
    SessionState,
)


class Thing:
    """Whatever can be closed: an agent, a connection."""

    async def aclose(self) -> None: ...


async def main() -> None:
    # What it is made of: each may be yours. It logs to `logging`, under "relaykit".
    async with Manager(
        store=MemoryStore(),
        ids=SystemIds(),
        clock=SystemClock(),
        cleaners=[CloseAgent(), CloseConnection()],  # or none
        hooks=NO_HOOKS,
    ) as manager:
        # 1. Create a session: CREATED
        session = await manager.create("auth", Thing())
        for agent_id in ("auth", "../auth"):
            try:
                await manager.create(agent_id, Thing())
            except (DuplicateRole, InvalidAgentId) as error:
                print(error)

        # 2. Begin to spawn its agent: CREATED → SPAWNING
        await manager.begin_spawn(session.id)

        # 3. Attach the agent once it runs: SPAWNING → ACTIVE
        await manager.attach_agent(session.id, "/path/to/worktree", Thing())
        try:
            await manager.begin_spawn(session.id)
        except TransitionError as error:
            print(error)

        # 4. Track activity
        await manager.record_heartbeat(session.id)
        await manager.increment_message_count(session.id)

        # Query sessions: by id, by role, all, by state, by role; and count them
        found = await manager.get(session.id)
        assert found == await manager.get_by_role("auth")
        everything = await manager.list()
        active = await manager.list(SessionFilter(state=SessionState.ACTIVE))
        auth = await manager.list(SessionFilter(agent_id="auth"))
        assert everything == active == auth == [found]
        print(await manager.count())

        # 5. Begin its end: ACTIVE → TERMINATING
        await manager.mark_terminating(session.id, "user requested")

        # 6. Complete the cleanup: TERMINATING → CLEANED, and out of the store
        report = await manager.complete_cleanup(session.id)
        print([f"{result.cleaner}: {result.outcome}" for result in report.results])
        assert await manager.get(session.id) is None


if __name__ == "__main__":
    anyio.run(main)
