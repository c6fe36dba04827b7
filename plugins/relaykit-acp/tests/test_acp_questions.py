from __future__ import annotations

import json

import pytest

from relaykit.agent.launcher import ToolUse
from relaykit.conversation.frame import Frame, Kind
from relaykit.settings import ToolKind
from relaykit_acp import questions

_ONCE = {"optionId": "once", "name": "No", "kind": "reject_once"}
_ALWAYS = {"optionId": "always", "name": "Never", "kind": "reject_always"}
_ALLOW = {"optionId": "allow", "name": "Yes", "kind": "allow_once"}
_NEW = {"optionId": "new", "name": "?", "kind": "a_kind_of_tomorrow", "more": 1}


def _permission(*options: object) -> Frame:
    return Frame(Kind.REQUEST, json.dumps({"options": options}).encode(), "q1", questions.PERMISSION)


def _outcome(frame: Frame) -> object:
    assert (frame.kind, frame.ref, frame.failed) == (Kind.DECISION, "q1", False)
    return json.loads(frame.body)["outcome"]


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([_ALLOW, _ALWAYS, _ONCE], "once"),
        ([_ALLOW, _NEW, _ALWAYS], "always"),
    ],
)
def test_the_mildest_refusal_is_chosen(options: list[object], chosen: str) -> None:
    decision = questions.decline(_permission(*options), cancelled=False)
    assert _outcome(decision) == {"outcome": "selected", "optionId": chosen}


@pytest.mark.parametrize("options", [[], [_ALLOW], [_NEW]])
def test_where_no_refusal_is_offered_the_outcome_is_cancelled(options: list[object]) -> None:
    assert _outcome(questions.decline(_permission(*options), cancelled=False)) == {"outcome": "cancelled"}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"options":3}', b'{"options":[{"kind":3}]}'])
def test_a_question_of_another_shape_can_be_refused_too(body: bytes) -> None:
    request = Frame(Kind.REQUEST, body, "q1", questions.PERMISSION)
    assert _outcome(questions.decline(request, cancelled=False)) == {"outcome": "cancelled"}


def test_a_cancelled_turn_is_no_refusal() -> None:
    assert _outcome(questions.decline(_permission(_ONCE), cancelled=True)) == {"outcome": "cancelled"}


@pytest.mark.parametrize(("cancelled", "action"), [(False, "decline"), (True, "cancel")])
def test_an_elicitation(cancelled: bool, action: str) -> None:  # noqa: FBT001 -- the two cases
    request = Frame(Kind.REQUEST, b"{}", "q1", questions.ELICITATION)
    assert json.loads(questions.decline(request, cancelled=cancelled).body) == {"action": action}


# ---------------------------------------------------------------- yes, and what it is about


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([_ONCE, {**_ALLOW, "optionId": "always-yes", "kind": "allow_always"}, _ALLOW], "allow"),
        ([_ONCE, {**_ALLOW, "kind": "allow_always"}], "allow"),
    ],
    ids=["once if that is offered", "else always"],
)
def test_the_shortest_yes_is_chosen(options: list[object], chosen: str) -> None:
    decision = questions.allow(_permission(*options))
    assert decision is not None
    assert _outcome(decision) == {"outcome": "selected", "optionId": chosen}


@pytest.mark.parametrize("options", [[], [_ONCE, _ALWAYS], [_NEW], [{"kind": "allow_once"}]])
def test_where_no_yes_is_offered_none_is_said(options: list[object]) -> None:
    assert questions.allow(_permission(*options)) is None


def test_an_elicitation_is_no_request_for_permission() -> None:
    body = json.dumps({"options": [_ALLOW], "toolCall": {"kind": "read"}}).encode()
    request = Frame(Kind.REQUEST, body, "q1", questions.ELICITATION)
    assert questions.allow(request) is None
    assert questions.tool_use(request) is None


@pytest.mark.parametrize(
    ("call", "use"),
    [
        (
            {"kind": "read", "locations": [{"path": "/a", "line": 3}, {"path": "/b"}]},
            ToolUse("read", ("/a", "/b")),
        ),
        ({"toolCallId": "c"}, ToolUse(None)),
        ({"kind": None, "locations": None}, ToolUse(None)),
        ({"kind": "a_kind_of_tomorrow"}, ToolUse(None)),
        ({"kind": 3}, None),
        ({"kind": "read", "locations": ["/a"]}, None),
        ({"kind": "read", "locations": [{"line": 3}]}, None),
        (None, None),
    ],
)
def test_what_permission_is_wanted_for(call: object, use: ToolUse | None) -> None:
    body = json.dumps({"toolCall": call, "options": []}).encode()
    assert questions.tool_use(Frame(Kind.REQUEST, body, "q1", questions.PERMISSION)) == use


def test_every_kind_that_rules_know_is_known() -> None:
    for kind in ToolKind:
        body = json.dumps({"toolCall": {"kind": kind}}).encode()
        assert questions.tool_use(Frame(Kind.REQUEST, body, "q1", questions.PERMISSION)) == ToolUse(kind)
