"""Talk: a client of one session in a relay of this process, who waits for what he has asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from relaykit.conversation import Cursor, Entry, Kind
from relaykit.relay import Relay

PATIENCE = 20.0
"""Seconds that each wait may take."""

_ACTIVE = "active"  # what the relay says once the agent takes prompts


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a prompt: everything behind it, up to and including the end of its turn."""

    entries: Sequence[Entry]

    @property
    def text(self) -> str:
        """What the agent said."""
        updates = [json.loads(entry.frame.body) for entry in self.entries if entry.frame.kind is Kind.UPDATE]
        contents = [update.get("update", {}).get("content") for update in updates]
        return "".join(
            content["text"] for content in contents if isinstance(content, dict) and "text" in content
        )

    @property
    def failed(self) -> bool:
        """The agent answered with an error, or went away."""
        return self.entries[-1].frame.failed

    @property
    def result(self) -> Any:
        """The answer to the prompt, or the error."""
        return json.loads(self.entries[-1].frame.body)


class Talk:
    """One client's side of a session. Made by `open_talk`; every wait has a deadline (`PATIENCE`).

    :ivar entries: what was said so far, in order.
    """

    def __init__(self, relay: Relay, session_id: str, client_id: str) -> None:
        self.relay = relay
        self.session_id = session_id
        self.client_id = client_id
        self.entries: list[Entry] = []
        self._ended = False
        self._turns = 0
        self._changed = anyio.Event()

    async def prompt(self, text: str) -> Answer:
        """Prompt the agent, and wait for the end of the turn."""
        return await self.answer_to(await self.begin(text))

    async def begin(self, text: str) -> str:
        """Prompt the agent, and return the id of the turn, for `answer_to`, without waiting for it."""
        self._turns += 1
        turn = f"{self.client_id}-{self._turns}"
        body = json.dumps({"prompt": [{"type": "text", "text": text}]}).encode()
        await self.relay.prompt(self.session_id, body, client_id=self.client_id, turn=turn)
        return turn

    async def answer_to(self, turn: str) -> Answer:
        """Wait for the end of a turn."""
        end = await self.until(lambda entry: entry.frame.kind is Kind.TURN_END and entry.frame.ref == turn)
        start = next(
            entry.seq for entry in self.entries if entry.frame.kind is Kind.PROMPT and entry.frame.ref == turn
        )
        return Answer([entry for entry in self.entries if start < entry.seq <= end.seq])

    async def question(self, number: int = 1) -> Entry:
        """Wait for the n-th question of the agent's."""
        await self.until(lambda _: len(self._questions()) >= number)
        return self._questions()[number - 1]

    async def choose(self, question: Entry, option: str) -> None:
        """Answer a request for permission with the id of an option."""
        outcome = {"outcome": {"outcome": "selected", "optionId": option}}
        body = json.dumps(outcome).encode()
        await self.relay.answer(self.session_id, question.frame.ref, body, client_id=self.client_id)

    async def until(self, wanted: Callable[[Entry], bool]) -> Entry:
        """Wait for the first entry that is wanted, among those that came already too.

        :raises AssertionError: the session has ended without it.
        """
        seen = 0
        with anyio.fail_after(PATIENCE):
            while True:
                for entry in self.entries[seen:]:
                    if wanted(entry):
                        return entry
                seen = len(self.entries)
                if self._ended:
                    raise AssertionError(
                        f"the session has ended, and it never came; there were {self.entries}"
                    )
                await self._changed.wait()

    async def end(self, reason: str = "the test is over") -> None:
        """End the session, and wait until it is CLEANED."""
        with anyio.fail_after(PATIENCE):
            await self.relay.stop(self.session_id, reason)
            await self.relay.wait_ended(self.session_id)

    def _questions(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.frame.kind is Kind.REQUEST]

    async def follow(self, cursor: Cursor) -> None:
        """Read until the conversation is over."""
        try:
            while True:
                self.entries += (await cursor.next()).entries
                self._notify()
        except anyio.EndOfStream:
            self._ended = True
            self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


@asynccontextmanager
async def open_talk(
    relay: Relay, agent_id: str = "auth", *, agent: str = "", client_id: str = "tester"
) -> AsyncIterator[Talk]:
    """Create a session, follow it, and wait until its agent takes prompts. Leaving it ends nothing: see `Talk.end`.

    :raises AssertionError: the session ended before that.
    """
    session = await relay.create(agent_id, agent=agent)
    talk = Talk(relay, session.id, client_id)
    failure: Exception | None = None
    async with (
        relay.attach(session.id, client_id=client_id, protocol="test") as cursor,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(talk.follow, cursor)
        try:
            await talk.until(lambda entry: entry.frame.kind is Kind.NOTICE and entry.frame.method == _ACTIVE)
            yield talk
        except Exception as error:  # noqa: BLE001 -- raised below, out of the task group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
