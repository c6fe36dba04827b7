"""What the bridge decides, message by message, without a network."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relaykit.testing.fakes import FakeIds
from relaykit_gateway.connect.bridge import MAX_ID_CHARACTERS, MAX_MESSAGE_BYTES, Bridge

INITIALIZE = b'{ "jsonrpc": "2.0", "id": 0,  "method":"initialize","params":{"protocolVersion":1,"x":1.50}}'
HELLO = {"id": 0, "result": {"protocolVersion": 1}}
NEW = {"id": 1, "method": "session/new", "params": {"cwd": "/there", "mcpServers": []}}
OPENED = {"id": 1, "result": {"sessionId": "s", "_meta": {"relaykit": {"epoch": "e", "seq": 1}}}}


class Between:
    """A bridge, and what comes out of it on both sides, decoded."""

    def __init__(self) -> None:
        self.bridge = Bridge(FakeIds())

    def editor(self, message: dict[str, Any] | bytes) -> None:
        self.bridge.from_editor(raw(message))

    def relay(self, message: dict[str, Any] | bytes) -> None:
        self.bridge.from_relay(raw(message))

    def to_relay(self) -> list[dict[str, Any]]:
        said = [json.loads(text) for text in self.bridge.to_relay]
        self.bridge.to_relay.clear()
        return said

    def to_editor(self) -> list[dict[str, Any]]:
        heard = [json.loads(text) for text in self.bridge.to_editor]
        self.bridge.to_editor.clear()
        return heard

    def clear(self) -> None:
        self.bridge.to_relay.clear()
        self.bridge.to_editor.clear()

    def open_session(self) -> None:
        self.bridge.connected()
        for message in (INITIALIZE, NEW):
            self.editor(message)
            self.relay(HELLO if message is INITIALIZE else OPENED)
        self.clear()

    def prompt(self, raw_id: int = 2) -> str:
        """Have the editor say something, and return its turn."""
        self.editor({"id": raw_id, "method": "session/prompt", "params": {"sessionId": "s", "prompt": []}})
        [said] = self.to_relay()
        turn = said["params"]["_meta"]["relaykit"]["turn"]
        assert isinstance(turn, str)
        return turn

    def reconnect(self) -> dict[str, Any]:
        """Lose the connection and make another one, up to the `session/resume`, which is returned."""
        self.bridge.disconnected()
        self.bridge.connected()
        [hello] = self.to_relay()
        assert (hello["method"], hello["id"]) != ("initialize", 0)
        self.relay({"id": hello["id"], "result": HELLO["result"]})
        [resume] = self.to_relay()
        assert resume["method"] == "session/resume"
        return resume

    def resumed(self, resume: dict[str, Any], epoch: str = "e") -> None:
        self.relay({"id": resume["id"], "result": {"_meta": {"relaykit": {"epoch": epoch, "seq": 1}}}})


def raw(message: dict[str, Any] | bytes, separators: tuple[str, str] = (",", ":")) -> bytes:
    """Return a message as our relay writes it, or with the separators of another."""
    if isinstance(message, bytes):
        return message
    return json.dumps({"jsonrpc": "2.0", **message}, separators=separators).encode()


def update(seq: int, text: str = "", kind: str = "agent_message_chunk") -> dict[str, Any]:
    content = {"type": "text", "text": text or f"said {seq}"}
    params = {"sessionId": "s", **meta(seq), "update": {"sessionUpdate": kind, "content": content}}
    return {"method": "session/update", "params": params}


def meta(seq: int) -> dict[str, Any]:
    return {"_meta": {"relaykit": {"seq": seq}}}


def told(what: str, seq: int, **params: Any) -> dict[str, Any]:
    return {"method": f"_relaykit/{what}", "params": {"sessionId": "s", **params, **meta(seq)}}


def question(seq: int) -> dict[str, Any]:
    params = {"sessionId": "s", "options": [], **meta(seq)}
    return {"id": "q1", "method": "session/request_permission", "params": params}


def chunks(messages: list[dict[str, Any]]) -> list[str]:
    return [message["params"]["update"]["content"]["text"] for message in messages]


# ---------------------------------------------------------------- what is changed, and what is not


def test_initialize_gets_one_member_more_and_keeps_every_other_byte() -> None:
    between = Between()
    between.bridge.connected()
    between.editor(INITIALIZE)
    assert between.bridge.to_relay == [
        INITIALIZE.replace(
            b'"params":{', b'"params":{"clientCapabilities":{"_meta":{"relaykit":{"ownTurns":false}}},'
        )
    ]


def test_a_prompt_gets_a_turn_and_keeps_every_other_byte() -> None:
    between = Between()
    between.open_session()
    line = (
        b'{"params" : {"sessionId":"s","_meta":{"a":[1.0,"\\u00e9"]},"prompt":[{"text":"\xc3\xa9 \\"}{"}]},'
        b'"id":"x","method":"session/prompt", "jsonrpc":"2.0"}'
    )
    between.editor(line)
    [said] = between.bridge.to_relay
    turn = json.loads(said)["params"]["_meta"]["relaykit"]["turn"]
    assert said == line.replace(b'"_meta":{', b'"_meta":{"relaykit":{"turn":"%b"},' % turn.encode())


def test_a_turn_of_the_editors_own_is_kept() -> None:
    between = Between()
    between.open_session()
    params = {"sessionId": "s", "prompt": [], "_meta": {"relaykit": {"turn": "mine"}}}
    line = raw({"id": 2, "method": "session/prompt", "params": params})
    between.editor(line)
    assert json.loads(between.bridge.to_relay[0]) == json.loads(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","method":"session/set_mode","id":  7,"params":{"sessionId":"s" }}',
        b'{"jsonrpc":"2.0","method":"_x/y","params":{"unknown":1e400}}',
        b'[{"jsonrpc":"2.0"}]',
        b'{"jsonrpc":"2.0","id":1,"method":',
        b'{"jsonrpc":"2.0","id":1,"method":7}',
    ],
)
def test_everything_else_goes_out_byte_for_byte(line: bytes) -> None:
    between = Between()
    between.open_session()
    between.editor(line)
    assert between.bridge.to_relay == [line]


@pytest.mark.parametrize(
    "text",
    [
        b'{"jsonrpc":"2.0", "method":"session/update","params":{"sessionId":"other","n":1.50}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}',
        raw(update(9)).replace(b": ", b" :  "),
        b"no JSON at all",
    ],
)
def test_everything_comes_in_byte_for_byte(text: bytes) -> None:
    between = Between()
    between.open_session()
    between.relay(text)
    assert between.bridge.to_editor == [text]


def test_what_the_relay_tells_us_alone_is_not_for_the_editor() -> None:
    between = Between()
    between.open_session()
    for message in (told("turn_started", 2, turn="t"), told("gap", 3, to=4), told("whatever", 5)):
        between.relay(message)
    assert between.to_editor() == []


def test_an_editor_that_knows_relaykit_is_told_it() -> None:
    between = Between()
    between.bridge.connected()
    capabilities: dict[str, Any] = {"clientCapabilities": {"_meta": {"relaykit": {}}}}
    line = raw({"id": 0, "method": "initialize", "params": capabilities})
    between.editor(line)
    assert between.bridge.to_relay == [line]
    between.relay(HELLO)
    between.clear()
    between.relay(told("whatever", 5))
    assert [message["method"] for message in between.to_editor()] == ["_relaykit/whatever"]


# ---------------------------------------------------------------- what would break the connection


@pytest.mark.parametrize(
    ("line", "raw_id", "code"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"x\xff"}', None, -32700),
        (raw({"id": "i" * MAX_ID_CHARACTERS, "method": "x"}), None, -32600),
        (raw({"id": 5, "method": "x", "params": "x" * MAX_MESSAGE_BYTES}), 5, -32600),
        (b"[" + b" " * MAX_MESSAGE_BYTES + b"]", None, -32600),
    ],
    ids=["utf8", "id", "request", "batch"],
)
def test_it_is_refused_here(line: bytes, raw_id: int | None, code: int) -> None:
    between = Between()
    between.open_session()
    between.editor(line)
    [answer] = between.to_editor()
    assert (answer["id"], answer["error"]["code"]) == (raw_id, code)
    assert between.to_relay() == []


def test_nothing_goes_out_before_initialize() -> None:
    between = Between()
    between.bridge.connected()
    between.editor(NEW)
    between.editor({"method": "session/cancel", "params": {}})
    between.editor(b"[]")
    assert [(answer["id"], answer["error"]["code"]) for answer in between.to_editor()] == [
        (1, -32600),
        (None, -32600),
    ]
    assert between.to_relay() == []


def test_a_message_that_the_relay_closed_on_is_answered_and_not_repeated() -> None:
    between = Between()
    between.open_session()
    between.prompt()
    between.bridge.disconnected("the relay closed the connection: too big")
    [answer] = between.to_editor()
    assert (answer["id"], answer["error"]["message"]) == (2, "the relay closed the connection: too big")
    between.bridge.connected()
    [hello] = between.to_relay()
    between.relay({"id": hello["id"], "result": {}})
    [resume] = between.to_relay()
    between.resumed(resume)
    assert between.to_relay() == []


# ---------------------------------------------------------------- another connection


def test_a_session_goes_on_behind_what_came_last() -> None:
    between = Between()
    between.open_session()
    between.relay(update(5))
    between.relay(update(6))
    resume = between.reconnect()
    assert resume["params"] == {
        "sessionId": "s",
        "cwd": "/there",
        "mcpServers": [],
        "_meta": {"relaykit": {"after": 6, "epoch": "e"}},
    }
    between.clear()
    between.relay(update(7))
    between.resumed(resume)
    between.relay(update(7))  # twice, whyever
    between.relay(update(8))
    assert chunks(between.to_editor()) == ["said 7", "said 8"]


def test_a_prompt_is_repeated_with_its_turn_once_the_session_is_up_to_date() -> None:
    between = Between()
    between.open_session()
    turn = between.prompt()
    resume = between.reconnect()
    assert between.to_relay() == []
    between.resumed(resume)
    [said] = between.to_relay()
    assert (said["id"], said["params"]["_meta"]["relaykit"]["turn"]) == (2, turn)
    between.relay({"id": 2, "result": {"stopReason": "end_turn"}})
    between.relay({"id": 2, "result": {"stopReason": "again"}})
    assert between.to_editor() == [{"jsonrpc": "2.0", "id": 2, "result": {"stopReason": "end_turn"}}]


@pytest.mark.parametrize(
    "outcome", [b'"result" : {"stopReason":"end_turn", "x":1.0}', b'"error":{"code":-1}']
)
@pytest.mark.parametrize("chunk_first", [True, False])
def test_a_turn_that_ended_meanwhile_is_answered_once_and_not_repeated(
    outcome: bytes, *, chunk_first: bool
) -> None:
    between = Between()
    between.open_session()
    turn = between.prompt()
    resume = between.reconnect()
    echo = [update(5, "my own prompt", "user_message_chunk"), told("turn_started", 5, turn=turn)]
    for message in echo if chunk_first else reversed(echo):
        between.relay(message)
    between.relay(update(6))
    ended = b'{"jsonrpc":"2.0","method":"_relaykit/turn_ended","params":{"sessionId":"s","turn":"%b",%b}}'
    between.relay(ended % (turn.encode(), outcome))
    between.relay({"id": 2, "result": {"stopReason": "again"}})
    between.resumed(resume)
    assert between.to_relay() == []
    said, answer = between.bridge.to_editor
    assert chunks([json.loads(said)]) == ["said 6"]
    assert answer == b'{"jsonrpc":"2.0","id":2,%b}' % outcome.replace(b'" :', b'":').replace(b": {", b":{")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["as our relay", "otherwise"])
def test_updates_that_came_already_are_left_out_however_they_are_written(separators: tuple[str, str]) -> None:
    between = Between()
    between.open_session()
    for seq in (5, 6):
        between.relay(raw(update(seq), separators))
    resume = between.reconnect()
    assert resume["params"]["_meta"]["relaykit"]["after"] == 6
    between.resumed(resume)
    for seq in (6, 7, 7, 8):
        between.relay(raw(update(seq), separators))
    elsewhere = raw(update(6), separators).replace(b'"s"', b'"elsewhere"')
    between.relay(elsewhere)
    assert chunks(between.to_editor()) == ["said 5", "said 6", "said 7", "said 8", "said 6"]


def test_prompts_of_others_come_whole_also_if_they_were_cut_between_two_blocks() -> None:
    between = Between()
    between.open_session()
    kind = "user_message_chunk"
    between.relay(update(5, "one", kind))
    between.relay(update(5, "two", kind))
    resume = between.reconnect()
    assert resume["params"]["_meta"]["relaykit"]["after"] == 4
    for text in ("one", "two", "three"):
        between.relay(update(5, text, kind))
    between.resumed(resume)
    between.relay(update(6))
    assert chunks(between.to_editor()) == ["one", "two", "three", "said 6"]


def test_a_prompt_of_another_is_not_taken_for_ones_own() -> None:
    between = Between()
    between.open_session()
    between.prompt()
    resume = between.reconnect()
    for text in ("one", "two"):
        between.relay(update(5, text, "user_message_chunk"))
    assert between.to_editor() == []
    between.relay(told("turn_started", 5, turn="another"))
    assert chunks(between.to_editor()) == ["one", "two"]
    between.relay(update(6, "three", "user_message_chunk"))
    assert between.to_editor() == []
    between.resumed(resume)
    assert chunks(between.to_editor()) == ["three"]


def test_a_prompt_that_was_cut_before_it_was_known_whose_it_is_comes_again() -> None:
    between = Between()
    between.open_session()
    between.prompt()
    between.reconnect()
    between.relay(update(5, "one", "user_message_chunk"))
    between.reconnect()
    between.relay(update(5, "one", "user_message_chunk"))
    between.relay(told("turn_started", 5, turn="another"))
    assert chunks(between.to_editor()) == ["one"]


def test_another_journal_is_told_from_its_start() -> None:
    between = Between()
    between.open_session()
    between.relay(update(9))
    resume = between.reconnect()
    between.clear()
    between.relay(update(2))
    between.relay(update(3))
    between.resumed(resume, epoch="f")
    assert chunks(between.to_editor()) == ["said 2", "said 3"]
    assert between.reconnect()["params"]["_meta"]["relaykit"] == {"after": 3, "epoch": "f"}


def test_a_load_that_was_cut_goes_on_where_it_was() -> None:
    between = Between()
    between.bridge.connected()
    between.editor(INITIALIZE)
    between.relay(HELLO)
    between.clear()
    between.editor(
        {"id": 1, "method": "session/load", "params": {"sessionId": "s", "cwd": "/", "mcpServers": []}}
    )
    between.relay(update(1))
    between.relay(update(2))
    between.clear()
    between.bridge.disconnected()
    between.bridge.connected()
    [hello] = between.to_relay()
    between.relay({"id": hello["id"], "result": {}})
    [load] = between.to_relay()
    assert (load["method"], load["id"]) == ("session/load", 1)
    assert load["params"]["_meta"]["relaykit"] == {"after": 2}
    between.relay(update(2))
    between.relay(update(3))
    between.relay({"id": 1, "result": {}})
    assert [message.get("id", "update") for message in between.to_editor()] == ["update", 1]


def test_a_second_load_tells_everything_anew() -> None:
    between = Between()
    between.open_session()
    between.relay(update(5))
    between.editor(
        {"id": 3, "method": "session/load", "params": {"sessionId": "s", "cwd": "/", "mcpServers": []}}
    )
    between.relay(update(6))  # was on its way
    for seq in (2, 3, 5, 6):
        between.relay(update(seq))
    between.relay({"id": 3, "result": {}})
    heard = [message for message in between.to_editor() if "id" not in message]
    assert chunks(heard) == [f"said {seq}" for seq in (5, 6, 2, 3, 5, 6)]


def test_a_session_that_is_gone_is_not_asked_for_again() -> None:
    between = Between()
    between.open_session()
    between.prompt()
    resume = between.reconnect()
    between.relay({"id": resume["id"], "error": {"code": -32002, "message": "gone"}})
    [prompt] = between.to_relay()
    assert prompt["method"] == "session/prompt"
    between.relay({"id": 2, "error": {"code": -32002, "message": "gone"}})
    assert [answer["error"]["message"] for answer in between.to_editor()] == ["gone"]
    between.bridge.disconnected()
    between.bridge.connected()
    [hello] = between.to_relay()
    between.relay({"id": hello["id"], "result": {}})
    assert between.to_relay() == []


@pytest.mark.parametrize("ending", ["close", "session_ended"])
def test_a_session_that_ended_is_not_asked_for_again(ending: str) -> None:
    between = Between()
    between.open_session()
    if ending == "close":
        between.editor({"id": 3, "method": "session/close", "params": {"sessionId": "s"}})
        between.relay({"id": 3, "result": {}})
    else:
        between.relay(told("session_ended", 4, cause="x"))
    between.bridge.disconnected()
    between.clear()
    between.bridge.connected()
    [hello] = between.to_relay()
    between.relay({"id": hello["id"], "result": {}})
    assert between.to_relay() == []
    assert between.bridge.ready


def test_a_cancel_is_repeated_while_its_prompt_is_open() -> None:
    between = Between()
    between.open_session()
    between.prompt()
    for method, params in (("session/cancel", {"sessionId": "s"}), ("$/cancel_request", {"requestId": 2})):
        between.editor({"method": method, "params": params})
    assert len(between.to_relay()) == 2
    between.resumed(between.reconnect())
    assert [said["method"] for said in between.to_relay()] == [
        "session/prompt",
        "session/cancel",
        "$/cancel_request",
    ]
    between.relay({"id": 2, "result": {"stopReason": "cancelled"}})
    between.resumed(between.reconnect())
    assert between.to_relay() == []


def test_what_is_said_without_a_connection_goes_out_later_in_order() -> None:
    between = Between()
    between.open_session()
    between.bridge.disconnected()
    between.editor({"method": "_x/notification", "params": {}})
    between.editor({"id": 7, "method": "session/list", "params": {}})
    assert between.to_relay() == []
    between.bridge.connected()
    [hello] = between.to_relay()
    between.relay({"id": hello["id"], "result": {}})
    [resume] = between.to_relay()
    between.editor({"id": 8, "method": "session/list", "params": {}})
    between.resumed(resume)
    assert [said.get("id", said["method"]) for said in between.to_relay()] == ["_x/notification", 7, 8]
    between.resumed(between.reconnect())
    assert [said["id"] for said in between.to_relay()] == [7, 8]


def test_initialize_itself_is_repeated_until_it_is_answered() -> None:
    between = Between()
    between.editor(INITIALIZE)
    between.bridge.connected()
    [first] = between.to_relay()
    between.bridge.disconnected()
    between.bridge.connected()
    assert between.to_relay() == [first]
    between.relay(HELLO)
    assert [answer["id"] for answer in between.to_editor()] == [0]


def test_a_second_initialize_changes_nothing() -> None:
    between = Between()
    between.open_session()
    between.editor({"id": 9, "method": "initialize", "params": {}})
    between.relay({"id": 9, "error": {"code": -32600, "message": "again"}})
    assert between.to_editor()[0]["id"] == 9
    assert between.reconnect()["params"]["sessionId"] == "s"


def test_a_relay_that_does_not_take_us_back_is_left() -> None:
    between = Between()
    between.open_session()
    between.bridge.disconnected()
    between.bridge.connected()
    [hello] = between.to_relay()
    between.relay({"id": hello["id"], "error": {"code": -32603, "message": "no agent"}})
    assert between.bridge.objection == "no agent"
    between.bridge.disconnected()
    between.bridge.connected()
    assert between.bridge.objection == ""
    assert [said["method"] for said in between.to_relay()] == ["initialize"]


def test_giving_up_answers_everything_that_is_open() -> None:
    between = Between()
    between.open_session()
    between.prompt()
    between.bridge.disconnected()
    between.editor({"id": "late", "method": "session/list", "params": {}})
    between.bridge.give_up("no connection")
    answers = between.to_editor()
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [(2, -32603), ("late", -32603)]
    assert answers[0]["error"]["message"] == "no connection"


# ---------------------------------------------------------------- questions


def test_a_question_that_the_editor_has_is_not_asked_again() -> None:
    between = Between()
    between.open_session()
    between.relay(question(5))
    resume = between.reconnect()
    between.relay(question(5))
    between.resumed(resume)
    assert [message["id"] for message in between.to_editor()] == ["q1"]
    answer = b'{"jsonrpc":"2.0","id":"q1","result":{"outcome":{"outcome":"selected","optionId":"a"}}}'
    between.editor(answer)
    assert between.bridge.to_relay == [answer]


def test_an_answer_waits_until_the_relay_asks_again() -> None:
    between = Between()
    between.open_session()
    between.relay(question(5))
    between.bridge.disconnected()
    between.editor({"id": "q1", "result": {}})
    between.bridge.connected()
    [hello] = between.to_relay()
    between.relay({"id": hello["id"], "result": {}})
    between.clear()
    between.relay(question(5))
    assert [said["id"] for said in between.to_relay()] == ["q1"]


def test_an_answer_that_was_lost_is_given_again_and_one_that_arrived_is_not() -> None:
    between = Between()
    between.open_session()
    between.relay(question(5))
    between.editor({"id": "q1", "result": {}})
    between.clear()
    resume = between.reconnect()
    between.relay(question(5))
    assert [said["id"] for said in between.to_relay()] == ["q1"]
    between.relay(told("question_closed", 6, requestId="q1", by="c"))
    between.resumed(resume)
    between.resumed(between.reconnect())
    assert between.to_relay() == []
    assert between.to_editor() == []


def test_a_question_that_others_answered_is_taken_back_once() -> None:
    between = Between()
    between.open_session()
    between.relay(question(5))
    between.clear()
    between.relay(told("question_closed", 6, requestId="q1", by="c"))
    cancelled = {"method": "$/cancel_request", "params": {"requestId": "q1"}}
    between.relay(cancelled)
    assert between.to_editor() == [{"jsonrpc": "2.0", **cancelled}]
    between.editor({"id": "q1", "error": {"code": -32800, "message": "cancelled"}})
    assert between.to_relay() == []


def test_the_questions_of_a_session_end_with_it() -> None:
    between = Between()
    between.open_session()
    between.relay(question(5))
    between.clear()
    between.relay(told("session_ended", 6, cause="x"))
    assert [message["method"] for message in between.to_editor()] == ["$/cancel_request"]


# ---------------------------------------------------------------- asleep


def test_an_editor_hears_nothing_of_sleep_and_its_place_goes_on() -> None:
    between = Between()
    between.open_session()
    for message in (told("session_asleep", 2, reason="idle"), told("session_awake", 3), update(4)):
        between.relay(message)
    assert chunks(between.to_editor()) == ["said 4"]
    assert between.reconnect()["params"]["_meta"]["relaykit"]["after"] == 4


def test_a_session_that_could_not_be_woken_is_asked_for_again() -> None:
    between = Between()
    between.open_session()
    between.relay(update(2))
    resume = between.reconnect()
    error = {"code": -32000, "message": "log in", "data": {"relaykit": {"code": "SPAWN_FAILED"}}}
    between.relay({"id": resume["id"], "error": error})
    assert between.bridge.ready
    turn = between.prompt()  # which has the relay try again
    between.relay(told("turn_started", 5, turn=turn))
    between.relay(update(6))
    between.clear()
    assert between.reconnect()["params"]["_meta"]["relaykit"]["after"] == 6
