"""Whatever clients, agent, transcript and relay go through: what each client was told, with the gaps that it was told
of, is what was said, once and in order. On both event loops, with a storage that survives.

``RELAYKIT_ONCE_RUNS`` has so many more random runs.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from relaykit.conversation import Entry, Kind
from relaykit.hooks.loader import load_plugins
from relaykit.relay import LiveSession, Relay, open_relay
from relaykit.relay.rest import Presence
from relaykit.testing import FakeClock
from relaykit_gateway.gateway import Gateway
from support.acp_sockets import gateway_of
from support.fickle_clients import FickleClient
from support.gateways import gateway_settings
from support.relays import prompt
from support.sleepers import until_presence
from support.told_agents import NAME, TABLE, ToldLauncher, update

pytestmark = pytest.mark.anyio

RUNS = 3 + int(os.environ.get("RELAYKIT_ONCE_RUNS", "0"))
STEPS = 80
SECONDS = 60
END = "the end"


class World:
    """A relay that comes and goes, a session in it, its clients, and what was said.

    :param tasks: where the clients' connections are served.
    """

    def __init__(self, directory: Path, tasks: TaskGroup, chance: random.Random) -> None:
        self.directory = directory
        self.tasks = tasks
        self.chance = chance
        self.clock = FakeClock()
        self.launcher = ToldLauncher()
        self.clients: list[FickleClient] = []
        self.said: dict[int, Entry] = {}
        self.spoken = 0  # how many updates the agent was told to say
        self.trimmed = 0
        self.prompts = 0
        self.session_id = ""
        self.acts: list[str] = []
        self._lives = 0
        self._path = directory / "0.db"
        self.stack = AsyncExitStack()
        self.gateway: Gateway

    @property
    def relay(self) -> Relay:
        return self.gateway.relay

    @property
    def live(self) -> LiveSession:
        return self.relay.live(self.session_id)

    # ------------------------------------------------------------ the relay

    async def open(self) -> None:
        settings = gateway_settings(
            self.directory,
            relay='storage = "sqlite"\ntail_bytes = 3000\nidle_timeout = 0',
            agents=f'{TABLE}\n[plugins.sqlite]\npath = "{self._path}"\nsynchronous = "normal"',
        )
        plugins = load_plugins(settings, extra={NAME: self.launcher})
        relay = await self.stack.enter_async_context(open_relay(settings, plugins=plugins, clock=self.clock))
        self.gateway = gateway_of(relay)
        self.gateway.stalls._started = True  # it looks when the test says so, and never by itself

    async def begin(self) -> None:
        await self.open()
        self.session_id = (await self.relay.create("auth", agent=NAME)).id
        await until_presence(self.relay, self.session_id, Presence.AWAKE)
        self.clients = [FickleClient(protocol, self.session_id) for protocol in ("ws", "acp", "aware") * 2]

    async def close(self) -> None:
        for client in self.clients:
            await client.lose(self.chance.random())
        await self.keep()
        await self.stack.aclose()
        self.stack = AsyncExitStack()

    async def restart(self) -> None:
        """Have another relay go on."""
        await self.close()
        await self.open()

    async def kill(self) -> None:
        """Have another relay go on with the storage as it is now: what this one still writes is lost."""
        for client in self.clients:
            await client.lose(self.chance.random())
        self._lives += 1
        copy = self.directory / f"{self._lives}.db"
        with closing(sqlite3.connect(self._path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        await self.stack.aclose()
        self.stack, self._path = AsyncExitStack(), copy
        await self.open()
        self.said = {seq: entry for seq, entry in self.said.items() if seq <= self.live.conversation.head}

    # ------------------------------------------------------------ what is said, and what is kept of it

    async def keep(self) -> None:
        """Note what was said, before anything of it is forgotten."""
        while page := await self.relay.transcript(
            self.session_id, after=max(self.said, default=0), limit=500
        ):
            self.said |= {entry.seq: entry for entry in page}

    def speak(self, count: int) -> None:
        agent = self.launcher.agent
        if agent is None or self.relay.presence(self.session_id) is not Presence.AWAKE:
            return
        for _ in range(count):
            text = f"{self.spoken} " + "x" * self.chance.choice([0, 10, 900])
            agent.say(update(text))
            self.spoken += 1

    async def turn(self) -> None:
        agent = self.launcher.agent
        if agent is not None and agent.turn:
            agent.end_turn()
        elif not self.live.busy:
            self.prompts += 1
            body = prompt(f"prompt {self.prompts}")
            await self.relay.prompt(self.session_id, body, client_id="driver", turn=f"t{self.prompts}")

    async def trim(self) -> None:
        await self.keep()
        through = int(self.chance.random() * max(self.said, default=0))
        await self.relay._transcripts.journal.trim(self.session_id, through=through)
        self.trimmed = max(self.trimmed, through)

    async def sleep(self) -> None:
        await self.live.fall_asleep("it is late")

    async def stall(self) -> None:
        """Let time pass over those who read nothing."""
        for _ in range(2):
            await anyio.wait_all_tasks_blocked()
            self.gateway.stalls.look()
            self.clock.advance(16)
        for _ in range(2):
            await anyio.wait_all_tasks_blocked()
            self.gateway.stalls.look()
        await anyio.wait_all_tasks_blocked()  # what was being sent is not sent any more

    # ------------------------------------------------------------ acts

    async def act(self) -> None:
        """Do something, and let what follows from it happen, or only begin to happen."""
        chance = self.chance
        client = chance.choice(self.clients)
        weights = {
            "speak": 30,
            "read": 30,
            "lose": 12,
            "come": 25,
            "turn": 8,
            "trim": 4,
            "sleep": 4,
            "stall": 3,
        }
        weights |= {"restart": 2, "kill": 1}
        act = chance.choices(list(weights), list(weights.values()))[0]
        self.acts.append(f"{act} {client.protocol}")
        match act:
            case "speak":
                self.speak(chance.choice([1, 3, 40]))
            case "read":
                await client.read(chance.choice([1, 5, 1000]))
            case "lose":
                await client.lose(chance.random())
            case "come" if client.link is None:
                await client.come(self.gateway, self.tasks, room=chance.choice([0, 2, 30, 10_000]))
            case "turn" | "trim" | "sleep" | "stall" | "restart" | "kill":
                await getattr(self, act)()
        if chance.random() < 0.5:
            await anyio.wait_all_tasks_blocked()

    async def finish(self) -> None:
        """Have everybody come, and read to the end."""
        for client in self.clients:
            await client.lose(self.chance.random())
            await client.come(self.gateway, self.tasks, room=10_000)
        await until_presence(self.relay, self.session_id, Presence.AWAKE)
        assert self.launcher.agent is not None
        self.launcher.agent.say(update(END))
        cursor = self.live.conversation.attach(after=self.live.conversation.head)
        while max(self.said, default=0) < cursor.position or not self._says_the_end():
            await cursor.next()
            await self.keep()
        for client in self.clients:
            await client.read_up_to(
                max(seq for seq, entry in self.said.items() if END.encode() in entry.frame.body)
            )

    def _says_the_end(self) -> bool:
        return any(END.encode() in entry.frame.body for entry in self.said.values())

    def check(self) -> None:
        """Check what was recorded, and what was told."""
        assert list(self.said) == list(range(1, len(self.said) + 1))
        texts = [entry.frame.body for entry in self.said.values() if entry.frame.kind is Kind.UPDATE]
        numbers = [int(body.split(b'"text": "')[1].split()[0]) for body in texts[:-1]]
        assert numbers == sorted(set(numbers))
        if "kill" not in {act.split()[0] for act in self.acts}:
            assert numbers == list(range(self.spoken))
        for client in self.clients:
            client.check(self.said, self.trimmed)


@asynccontextmanager
async def world(directory: Path, seed: int) -> AsyncIterator[World]:
    async with anyio.create_task_group() as tasks:
        world = World(directory, tasks, random.Random(seed))
        try:
            await world.begin()
            yield world
            await world.close()
        except BaseException as error:
            error.add_note("; ".join(world.acts))
            raise
        finally:
            tasks.cancel_scope.cancel()
            for client in world.clients:
                if client.link is not None:
                    client.link.close()
            await world.stack.aclose()


@pytest.mark.parametrize("seed", range(RUNS))
async def test_everything_comes_once_and_in_order(tmp_path: Path, seed: int) -> None:
    with anyio.fail_after(SECONDS):
        async with world(tmp_path, seed) as there:
            for _ in range(STEPS):
                await there.act()
            await there.finish()
            there.check()
