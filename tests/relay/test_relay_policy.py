"""Policies of plugins: asked before anything happens; whatever goes wrong with one refuses."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Entry, Kind
from relaykit.errors import QuestionClosed, Refused, SessionError
from relaykit.hooks import hookimpl
from relaykit.hooks.events import PermissionRequest, PromptRequest, QuestionAnswered, SessionRequest
from relaykit.relay import Relay
from relaykit.session import SessionFilter
from support.relays import Client, active_session, ended, following, running_relay

pytestmark = pytest.mark.anyio

Answer = Callable[[], Awaitable[None]]


async def allow() -> None:
    pass


async def refuse() -> None:
    raise Refused("not today")


async def fail() -> None:
    raise ZeroDivisionError("a bug in the plugin")


async def hang() -> None:
    await anyio.sleep_forever()


WRONG = pytest.mark.parametrize(
    ("answer", "why"),
    [(refuse, "not today"), (fail, "failed: ZeroDivisionError"), (hang, "took longer than 0.2 s")],
    ids=["refuses", "fails", "overruns"],
)


class SessionPolicy:
    def __init__(self, answer: Answer = allow) -> None:
        self.answer = answer
        self.asked: list[SessionRequest] = []

    @hookimpl
    async def relaykit_check_session(self, request: SessionRequest) -> None:
        self.asked.append(request)
        await self.answer()


class PromptPolicy:
    def __init__(self, answer: Answer = allow) -> None:
        self.answer = answer
        self.asked: list[PromptRequest] = []

    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> None:
        self.asked.append(request)
        await self.answer()


class PermissionPolicy:
    def __init__(self, answer: Answer = allow) -> None:
        self.answer = answer
        self.asked: list[PermissionRequest] = []
        self.answered: list[QuestionAnswered] = []
        self.heard = anyio.Event()

    @hookimpl
    async def relaykit_check_permission(self, request: PermissionRequest) -> None:
        self.asked.append(request)
        await self.answer()

    @hookimpl
    async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
        self.answered.append(question)
        self.heard.set()


# ---------------------------------------------------------------- sessions


async def test_a_session_that_is_allowed_is_made(tmp_path: Path) -> None:
    policy = SessionPolicy()
    async with running_relay(tmp_path, plugins={"policy": policy}) as relay:
        await relay.create("auth", owner="ann")
        assert policy.asked == [SessionRequest(agent_id="auth", agent="echo", project="default", owner="ann")]


@WRONG
async def test_a_session_that_is_refused_is_not_made(tmp_path: Path, answer: Answer, why: str) -> None:
    policy = SessionPolicy(answer)
    plugins = {"policy": policy}
    async with running_relay(tmp_path, plugins=plugins, RELAY__HOOK_TIMEOUT="0.2") as relay:
        with pytest.raises(Refused, match=why) as caught:
            await relay.create("auth")
        assert (caught.value.plugin, caught.value.hook) == ("policy", "relaykit_check_session")
        assert list(await relay.list(SessionFilter())) == []
        policy.answer = allow
        await relay.create("auth")


# ---------------------------------------------------------------- prompts


@WRONG
async def test_a_prompt_that_is_refused_is_not_said(tmp_path: Path, answer: Answer, why: str) -> None:
    policy = PromptPolicy(answer)
    policed = running_relay(tmp_path, plugins={"policy": policy}, RELAY__HOOK_TIMEOUT="0.2")
    async with policed as relay, active_session(relay) as client:
        with pytest.raises(Refused, match=why) as caught:
            await client.say("hello", "t1")
        assert (caught.value.plugin, caught.value.hook) == ("policy", "relaykit_check_prompt")
        policy.answer = allow
        await client.say("again", "t2")
        await client.until_turn_end("t2")
        assert "PROMPT t1" not in client.told
        assert [request.client_id for request in policy.asked] == ["c1", "c1"]
        assert b"hello" in policy.asked[0].body
        assert policy.asked[0].session.id == client.session_id


async def test_a_session_that_ends_while_a_policy_thinks_takes_no_prompt(tmp_path: Path) -> None:
    asked, decided = anyio.Event(), anyio.Event()

    async def think() -> None:
        asked.set()
        await decided.wait()

    refused: list[SessionError] = []

    async def say(client: Client) -> None:
        try:
            await client.say("hello", "t1")
        except SessionError as error:
            refused.append(error)

    policed = running_relay(tmp_path, plugins={"policy": PromptPolicy(think)})
    async with policed as relay, active_session(relay) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(say, client)
        with anyio.fail_after(10):
            await asked.wait()
        await relay.stop(client.session_id, "enough")
        await client.until_notice("terminating")
        decided.set()
        await client.until_the_end()
    assert len(refused) == 1
    assert client.told == ["NOTICE active", "NOTICE terminating", "NOTICE ended"]


# ---------------------------------------------------------------- permissions


async def answer_at_once(client: Client, lost: list[QuestionClosed]) -> None:
    """Answer the first question in the very moment in which it is seen."""
    asked = await client.until_asked()
    try:
        await client.answer(asked.frame.ref, "yes")
    except QuestionClosed as error:
        lost.append(error)


@pytest.mark.parametrize("answer", [refuse, fail, hang])
async def test_a_permission_that_is_refused_cannot_be_given(tmp_path: Path, answer: Answer) -> None:
    policy = PermissionPolicy(answer)
    policed = running_relay(tmp_path, plugins={"policy": policy}, RELAY__HOOK_TIMEOUT="0.2")
    lost: list[QuestionClosed] = []
    async with policed as relay, active_session(relay) as client, anyio.create_task_group() as tasks:
        for number in range(5):
            other = await tasks.start(follow_and_answer, relay, client.session_id, f"eager-{number}", lost)
            assert other is not None
        await client.say("/ask", "t1")
        await client.until_turn_end("t1")
        await client.until_said("permission: no")
        with anyio.fail_after(10):
            await policy.heard.wait()
        [told] = policy.answered
        assert (told.by, told.outcome) == ("policy", "refused")
        decisions = [entry for entry in client.entries if entry.frame.kind is Kind.DECISION]
        assert [entry.frame for entry in decisions] == [told.decision]
        assert json.loads(decisions[0].frame.body) == {"outcome": {"outcome": "selected", "optionId": "no"}}
    assert len(lost) == 5


async def follow_and_answer(
    relay: Relay,
    session_id: str,
    client_id: str,
    lost: list[QuestionClosed],
    *,
    task_status: anyio.abc.TaskStatus[str],
) -> None:
    async with following(relay, session_id, client_id=client_id) as client:
        task_status.started(client_id)
        await answer_at_once(client, lost)


async def test_a_permission_that_may_be_given_is_asked_of_people(tmp_path: Path) -> None:
    policy = PermissionPolicy()
    async with running_relay(tmp_path, plugins={"policy": policy}) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        assert [request.request for request in policy.asked] == [asked.frame]
        await client.answer(asked.frame.ref)
        await client.until_said("permission: yes")
        with anyio.fail_after(10):
            await policy.heard.wait()
        assert [(told.by, told.outcome) for told in policy.answered] == [("c1", "answered")]


async def test_nobody_sees_a_question_that_a_policy_ponders(tmp_path: Path) -> None:
    asked, decided = anyio.Event(), anyio.Event()

    async def think() -> None:
        asked.set()
        await decided.wait()

    policed = running_relay(tmp_path, plugins={"policy": PermissionPolicy(think)})
    async with policed as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        with anyio.fail_after(10):
            await asked.wait()
        await anyio.wait_all_tasks_blocked()
        assert client.told == ["NOTICE active", "PROMPT t1"]
        assert len(relay.live(client.session_id).questions) == 0
        decided.set()
        question: Entry = await client.until_asked()
        await client.answer(question.frame.ref)
        await client.until_turn_end("t1")


async def test_a_turn_cancelled_while_a_policy_ponders_ends(tmp_path: Path) -> None:
    asked, decided = anyio.Event(), anyio.Event()

    async def think() -> None:
        asked.set()
        await decided.wait()

    policed = running_relay(tmp_path, plugins={"policy": PermissionPolicy(think)})
    async with policed as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        with anyio.fail_after(10):
            await asked.wait()
        await relay.cancel(client.session_id)
        decided.set()
        await client.until_said("permission: cancelled")
        end = await client.until_turn_end("t1")
        assert json.loads(end.frame.body) == {"stopReason": "cancelled"}
        assert client.told.count("DECISION session/request_permission") == 1


async def test_a_session_ends_while_a_policy_ponders(tmp_path: Path) -> None:
    asked = anyio.Event()

    async def think() -> None:
        asked.set()
        await anyio.sleep_forever()

    policed = running_relay(tmp_path, plugins={"policy": PermissionPolicy(think)}, RELAY__HOOK_TIMEOUT="60")
    async with policed as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        with anyio.fail_after(10):
            await asked.wait()
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        await ended(relay, client.session_id)
        assert client.told[-3:] == ["TURN_END t1", "NOTICE terminating", "NOTICE ended"]
