"""Rules of ``[[permissions]]`` in a relay: they answer before any person sees the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.conversation import Entry, Kind
from relaykit.errors import QuestionClosed, Refused, SettingsError
from relaykit.hooks import hookimpl
from relaykit.hooks.events import PermissionRequest, QuestionAnswered, QuestionAsked
from support.relays import PATIENCE, Client, active_session, permission, running_relay

pytestmark = pytest.mark.anyio

YES = {"optionId": "once", "name": "Yes", "kind": "allow_once"}
ALWAYS = {"optionId": "always", "name": "Always", "kind": "allow_always"}
NO = {"optionId": "no", "name": "No", "kind": "reject_once"}


def rules(*tables: str) -> str:
    return "".join(f"[[permissions]]\n{table}\n" for table in tables)


class Ears:
    """A plugin that hears of questions, and has a policy of its own."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.asked: list[QuestionAsked] = []
        self.answered: list[QuestionAnswered] = []
        self.heard = anyio.Event()
        self.pondering = anyio.Event()
        self.decided = anyio.Event()
        self.decided.set()
        self._refuses = refuses

    @hookimpl
    async def relaykit_check_permission(self, request: PermissionRequest) -> None:
        assert request.request.kind is Kind.REQUEST
        self.pondering.set()
        await self.decided.wait()
        if self._refuses:
            raise Refused("not on a Sunday")

    @hookimpl
    async def relaykit_on_question_asked(self, question: QuestionAsked) -> None:
        self.asked.append(question)

    @hookimpl
    async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
        self.answered.append(question)
        self.heard.set()


async def ask(client: Client, call: dict[str, Any], *options: object, turn: str = "t1") -> Entry:
    """Have the agent ask for a permission, and return its question."""
    params = {"toolCall": {"toolCallId": "c1", **call}, "options": options or (ALWAYS, YES, NO)}
    request = {"jsonrpc": "2.0", "id": turn, "method": "session/request_permission", "params": params}
    before = client.told.count("REQUEST session/request_permission")
    await client.say(f"/raw {json.dumps(request)}", turn)
    return await client.until_asked(before + 1)


def chosen(client: Client) -> list[Any]:
    """Return the outcomes of all questions so far."""
    outcomes = []
    for entry in client.entries:
        if entry.frame.kind is Kind.DECISION:
            outcome = json.loads(entry.frame.body)["outcome"]
            outcomes.append(outcome.get("optionId", outcome["outcome"]))
    return outcomes


# ---------------------------------------------------------------- yes and no


@pytest.mark.parametrize(
    ("action", "option", "outcome"), [("allow", "yes", "allowed"), ("reject", "no", "refused")]
)
async def test_a_rule_answers_in_place_of_people(
    tmp_path: Path, action: str, option: str, outcome: str
) -> None:
    ears = Ears()
    toml = rules('action = "ask"\nkind = "edit"', f'action = "{action}"\nkind = "other"')
    relaying = running_relay(tmp_path, toml=toml, plugins={"ears": ears})
    async with relaying as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await client.until_said(f"permission: {option}")
        said = {"by": "rule 2", "outcome": outcome, "reason": f"{action}: kind other"}
        assert await client.until_decided(asked.frame.ref) == said
        decision = await client.until(lambda entry: entry.frame.kind is Kind.DECISION)
        assert decision.frame.body.replace(b" ", b"") == permission(option).replace(b" ", b"")
        assert decision.seq == asked.seq + 1  # nobody could have answered before
        with pytest.raises(QuestionClosed):
            await client.answer(asked.frame.ref)
        with anyio.fail_after(PATIENCE):
            await ears.heard.wait()
        [told] = ears.answered
        assert (told.by, told.outcome, told.reason) == ("rule 2", outcome, f"{action}: kind other")
        assert ears.asked == []
        assert relay.live(client.session_id).asking.deciders.of(asked.frame.ref).by == "rule 2"


async def test_yes_is_said_once_where_that_is_offered(tmp_path: Path) -> None:
    relaying = running_relay(tmp_path, toml=rules('action = "allow"'))
    async with relaying as relay, active_session(relay) as client:
        for turn, options in (("t1", (ALWAYS, YES, NO)), ("t2", (NO, ALWAYS))):
            asked = await ask(client, {"kind": "read"}, *options, turn=turn)
            await client.until_decided(asked.frame.ref)
        assert chosen(client) == ["once", "always"]


@pytest.mark.parametrize(
    ("toml", "call", "options"),
    [
        (rules('action = "allow"\nkind = "edit"'), {"kind": "read"}, ()),
        (rules('action = "ask"\nkind = "read"', 'action = "allow"'), {"kind": "read"}, ()),
        (rules('action = "allow"\nkind = "read"'), {}, ()),
        (rules('action = "allow"'), {"kind": 3}, ()),
        (rules('action = "allow"'), {"kind": "read"}, (NO,)),
        (rules('action = "allow"\nagent = "other"'), {"kind": "read"}, ()),
        (rules('action = "allow"'), {"kind": "read", "locations": [{"path": "/a/../b"}]}, ()),
    ],
    ids=["no match", "ask", "no kind", "nonsense", "no yes", "another agent", "a path that goes round"],
)
async def test_whatever_is_in_doubt_is_asked(
    tmp_path: Path, toml: str, call: dict[str, Any], options: tuple[object, ...]
) -> None:
    toml += '[agents.other]\ncommand = ["false"]\n'
    ears = Ears()
    relaying = running_relay(tmp_path, toml=toml, plugins={"ears": ears})
    async with relaying as relay, active_session(relay) as client:
        asked = await ask(client, call, *options)
        await client.answer(asked.frame.ref, "person")
        assert await client.until_decided(asked.frame.ref) == {
            "by": "c1",
            "outcome": "answered",
            "client": "c1",
        }
        with anyio.fail_after(PATIENCE):
            await ears.heard.wait()
        assert [question.request for question in ears.asked] == [asked.frame]


async def test_rules_answer_no_elicitation(tmp_path: Path) -> None:
    relaying = running_relay(tmp_path, toml=rules('action = "allow"'))
    async with relaying as relay, active_session(relay) as client:
        await client.say("/elicit", "t1")
        asked = await client.until_asked()
        await relay.answer(client.session_id, asked.frame.ref, b'{"action":"decline"}', client_id="c1")
        await client.until_turn_end("t1")


async def test_paths_are_looked_at_where_the_session_works(tmp_path: Path) -> None:
    toml = rules('action = "allow"\nkind = "edit"\npath = "src/**"')
    relaying = running_relay(tmp_path, toml=toml)
    async with relaying as relay, active_session(relay) as client:
        worktree = Path((await relay.require(client.session_id)).worktree_dir or "")
        (worktree / "src").mkdir()
        (worktree / "src" / "out").symlink_to(tmp_path)

        async def is_allowed(path: str, turn: str) -> bool:
            call = {"kind": "edit", "locations": [{"path": str(worktree / path), "line": 3}]}
            asked = await ask(client, call, turn=turn)
            if len(relay.live(client.session_id).questions):
                await client.answer(asked.frame.ref, "person")
            told = await client.until_decided(asked.frame.ref)
            return str(told["by"]) == "rule 1"

        assert await is_allowed("src/new/file.py", "t1")
        assert not await is_allowed("README.md", "t2")
        assert not await is_allowed("src/out/file", "t3")


async def test_a_policy_goes_before_rules(tmp_path: Path) -> None:
    ears = Ears(refuses=True)
    relaying = running_relay(tmp_path, toml=rules('action = "allow"'), plugins={"ears": ears})
    async with relaying as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        said = {"by": "ears", "outcome": "refused", "reason": "not on a Sunday"}
        assert await client.until_decided(asked.frame.ref) == said
        await client.until_said("permission: no")


async def test_a_rule_that_names_no_agent_is_told_at_the_start(tmp_path: Path) -> None:
    toml = rules('action = "ask"', 'action = "allow"\nagent = "ecko"')
    with pytest.raises(SettingsError, match="did you mean 'echo'") as caught:
        async with running_relay(tmp_path, toml=toml):
            pass
    assert caught.value.key == "permissions[2].agent"


# ---------------------------------------------------------------- closed before it was judged


async def test_what_is_still_judged_is_cancelled_with_its_turn(tmp_path: Path) -> None:
    ears = Ears()
    ears.decided = anyio.Event()
    relaying = running_relay(tmp_path, toml=rules('action = "allow"'), plugins={"ears": ears})
    async with relaying as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        with anyio.fail_after(PATIENCE):
            await ears.pondering.wait()
        assert relay.live(client.session_id).busy
        assert relay.live(client.session_id).occupied
        await relay.cancel(client.session_id)
        asked = await client.until_asked()
        assert await client.until_decided(asked.frame.ref) == {"by": "relay", "outcome": "cancelled"}
        end = await client.until_turn_end("t1")  # before the policy has decided
        assert json.loads(end.frame.body) == {"stopReason": "cancelled"}
        assert client.told[2:6] == [
            "CANCEL session/cancel",
            "REQUEST session/request_permission",
            "DECISION session/request_permission",
            "NOTICE decided",
        ]
        ears.decided.set()
        await client.say("on", "t2")
        await client.until_turn_end("t2")
        assert client.told.count("DECISION session/request_permission") == 1
        assert not relay.live(client.session_id).busy


async def test_what_is_still_judged_may_be_taken_back(tmp_path: Path) -> None:
    ears = Ears()
    ears.decided = anyio.Event()
    relaying = running_relay(tmp_path, plugins={"ears": ears})
    async with relaying as relay, active_session(relay) as client:
        params = {"toolCall": {}, "options": [NO]}
        request = {"jsonrpc": "2.0", "id": "own", "method": "session/request_permission", "params": params}
        await client.say(f"/raw {json.dumps(request)}", "t1")
        with anyio.fail_after(PATIENCE):
            await ears.pondering.wait()
        forget = {"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": "own"}}
        await client.say(f"/raw {json.dumps(forget)}", "t2")
        asked = await client.until_asked()
        assert await client.until_decided(asked.frame.ref) == {"by": "agent", "outcome": "cancelled"}
        ears.decided.set()
        await client.say("on", "t3")
        await client.until_turn_end("t3")
        assert client.told.count("REQUEST session/request_permission") == 1
        assert ears.asked == []


async def test_who_asks_after_the_cancel_is_allowed_nothing(tmp_path: Path) -> None:
    """The question and the cancel have crossed: the agent has not heard of it yet."""
    relaying = running_relay(tmp_path, toml=rules('action = "allow"'))
    async with relaying as relay, active_session(relay) as client:
        await client.say("/deaf 0.5", "t1")
        await client.until(lambda entry: entry.frame.kind is Kind.PROMPT)
        await relay.cancel(client.session_id)
        live = relay.live(client.session_id)
        assert live.queue.is_cancelled
        params = {"toolCall": {"kind": "read"}, "options": [YES, NO]}
        question = json.dumps(params).encode()
        held = live.asking.hold(
            (await client.until(lambda entry: entry.frame.kind is Kind.PROMPT)).frame._replace(
                kind=Kind.REQUEST, ref="q1", method="session/request_permission", body=question
            )
        )
        await live.asking.judge(held, is_over=lambda: live.queue.is_cancelled)
        assert await client.until_decided("q1") == {"by": "relay", "outcome": "cancelled"}
        await client.until_turn_end("t1")
