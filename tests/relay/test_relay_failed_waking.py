"""What comes in the very moment in which an agent wakes, or fails to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Entry, Frame, Kind
from relaykit.relay import LiveSession
from relaykit.relay.rest import Presence
from support.durable import change_command
from support.relays import Client, active_session, running_relay
from support.sleepers import until_presence

pytestmark = pytest.mark.anyio

NO_PROGRAM = ["there-is-no-such-program"]

Before = Callable[[Sequence[Frame]], Awaitable[None]]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await relay.live(client.session_id).fall_asleep("nobody is here")
        yield client


def live_of(client: Client) -> LiveSession:
    return client.relay.live(client.session_id)


def before_recording(monkeypatch: pytest.MonkeyPatch, live: LiveSession, act: Before) -> None:
    """Have something happen while frames are on their way into the transcript."""
    publish = live.conversation.publish

    async def published(frames: Sequence[Frame]) -> Sequence[Entry]:
        await act(frames)
        return await publish(frames)

    monkeypatch.setattr(live.conversation, "publish", published)


def says(frames: Sequence[Frame], word: str) -> bool:
    return any(frame.kind is Kind.NOTICE and frame.method == word for frame in frames)


async def test_who_comes_while_the_failure_is_recorded_has_it_tried_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = live_of(client)
    good = list(change_command(live, NO_PROGRAM).command)

    async def come(frames: Sequence[Frame]) -> None:
        if says(frames, "wake_failed"):
            change_command(live, good)
            await client.say("again", "t2")

    before_recording(monkeypatch, live, come)
    await client.say("hello", "t1")
    assert (await client.until_turn_end("t1")).frame.failed
    assert not (await client.until_turn_end("t2")).frame.failed


async def test_a_prompt_that_is_taken_back_while_its_failure_is_recorded_takes_no_other_with_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = live_of(client)
    change_command(live, NO_PROGRAM)

    async def take_back(frames: Sequence[Frame]) -> None:
        if any(frame.kind is Kind.PROMPT and frame.ref == "t1" for frame in frames):
            assert live.withdraw("t1") is not None

    before_recording(monkeypatch, live, take_back)
    await client.say("one", "t1")
    await client.say("two", "t2")
    assert (await client.until_turn_end("t2")).frame.failed


async def test_a_call_that_has_waited_is_put_to_the_agent_and_not_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = live_of(client)

    async def take_long(frames: Sequence[Frame]) -> None:
        if says(frames, "awake"):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()

    before_recording(monkeypatch, live, take_long)
    with anyio.fail_after(client.patience):
        await client.relay.call(
            client.session_id, "session/set_mode", b'{"modeId":"shout"}', client_id="c1", ref="k1"
        )
    result = await client.until(lambda entry: entry.frame.kind is Kind.RESULT and entry.frame.ref == "k1")
    assert not result.frame.failed
    await until_presence(client.relay, client.session_id, Presence.AWAKE)
