"""Real echo agents behind a real launcher, for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import anyio
from anyio import to_thread

from relaykit.agent.launcher import AgentSpec
from relaykit.conversation.frame import Frame, Kind
from relaykit.ids import SystemIds
from relaykit.session.model import Json, Session
from relaykit.testing.store_contract import make_session
from relaykit_acp import marked
from relaykit_acp.agent import AcpAgent
from relaykit_acp.environment import marker
from relaykit_acp.finding import ECHO
from relaykit_acp.launcher import AcpLauncher, open_acp_launcher
from relaykit_acp.settings import AcpSettings

# Short enough for tests, long enough for a busy machine.
QUICK = AcpSettings(initialize_timeout=20.0, eof_grace=0.3, term_grace=0.3)


@dataclass(slots=True)
class Recorder:
    """What a launcher records, in order."""

    facts: list[Json] = field(default_factory=list)

    async def __call__(self, facts: Json) -> None:
        """Keep it, after a checkpoint."""
        await anyio.lowlevel.checkpoint()
        self.facts.append(facts)


def echo(*flags: str, env: Mapping[str, str] = MappingProxyType({}), login: str | None = None) -> AgentSpec:
    """Return the echo agent with flags on its command line."""
    return AgentSpec(name="echo", command=(*ECHO.command, *flags), env=env, login=login)


def new_session() -> Session:
    """Return a session with an id of its own, so that its processes are known among all of the machine's."""
    return make_session(SystemIds().new_id())


@asynccontextmanager
async def launcher(settings: AcpSettings = QUICK) -> AsyncIterator[AcpLauncher]:
    """Open a launcher."""
    async with open_acp_launcher(settings, ids=SystemIds()) as opened:
        yield opened


@asynccontextmanager
async def running(
    spec: AgentSpec = ECHO, *, session: Session | None = None, settings: AcpSettings = QUICK
) -> AsyncIterator[AcpAgent]:
    """Launch an agent, and close it at the end."""
    async with launcher(settings) as opened:
        agent = await opened.launch(spec, session or new_session(), Path.cwd(), Recorder())
        assert isinstance(agent, AcpAgent)
        yield agent


def prompt(text: str, ref: str = "t1") -> Frame:
    """Return a PROMPT with one block of text."""
    body = json.dumps({"prompt": [{"type": "text", "text": text}]}).encode()
    return Frame(Kind.PROMPT, body, ref, "session/prompt")


async def until(kind: Kind, agent: AcpAgent, *, seconds: float = 20.0) -> list[Frame]:
    """Receive up to and including the batch that has a frame of this kind."""
    frames: list[Frame] = []
    with anyio.fail_after(seconds):
        while not any(frame.kind is kind for frame in frames):
            frames += await agent.receive()
    return frames


async def say(agent: AcpAgent, text: str, ref: str = "t1") -> list[Frame]:
    """Send a prompt, and return everything up to the end of its turn."""
    await agent.send(prompt(text, ref))
    return await until(Kind.TURN_END, agent)


def texts(frames: Sequence[Frame]) -> list[str]:
    """Return the texts of the message chunks."""
    updates = [json.loads(frame.body) for frame in frames if frame.method == "session/update"]
    return [update["update"]["content"]["text"] for update in updates]


async def survivors(session: Session) -> list[int]:
    """Return the living processes of a session."""
    return await to_thread.run_sync(marked.marked, marker(session.id))
