"""`relaykit connect` over a network that breaks: the editor notices nothing but that it takes longer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from support.connecting import ConnectEditor, connect_editor
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.servers import Server, relay


@dataclass(frozen=True)
class Network:
    """A relay, and a network in front of it that can break."""

    proxy: CuttingProxy
    server: Server

    @property
    def _token(self) -> str:
        return self.server.headers["Authorization"].removeprefix("Bearer ")

    def editor(self, *arguments: str) -> AbstractContextManager[ConnectEditor]:
        """Start an editor behind the network."""
        return connect_editor(self.proxy.url, *arguments, RELAYKIT_TOKEN=self._token)

    def neighbour(self) -> AbstractContextManager[ConnectEditor]:
        """Start an editor that needs no network."""
        return connect_editor(self.server.url.removesuffix("/ws"), RELAYKIT_TOKEN=self._token)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    project = tmp_path_factory.mktemp("project")
    with cutting_proxy() as proxy:
        # A relay has to know by which names it is called.
        (project / "relaykit.toml").write_text(f'[plugins.gateway]\npublic_url = "{proxy.url}"\n')
        with relay(project=project) as server:
            proxy.forward_to(server.url)
            yield Network(proxy, server)


@pytest.fixture
def network(whole: Network) -> Iterator[Network]:
    yield whole
    whole.proxy.restore()


def joined(neighbour: ConnectEditor, session_id: str) -> None:
    """Follow a session, from its beginning."""
    neighbour.ask("initialize", protocolVersion=1, clientCapabilities={})
    neighbour.ask("session/load", sessionId=session_id, cwd="/", mcpServers=[])


def until_said(editor: ConnectEditor, text: str, kind: str = "agent_message_chunk") -> None:
    while text not in editor.chunks(kind):
        editor.hear()


def is_the_stream(chunks: list[str], count: int) -> bool:
    return [chunk[:7] for chunk in chunks] == [f"{number:07}" for number in range(count)]


def test_an_update_stream_is_cut_again_and_again(network: Network) -> None:
    with network.editor() as editor:
        session_id = editor.open_session()
        network.proxy.cut_after(b"0000500 ")
        prompt = editor.prompt(session_id, "/stream 3000 60")
        for marker in (b"0001200 ", b"0001201 ", b"0002998 "):
            network.proxy.wait_cut()
            network.proxy.cut_after(marker)
            network.proxy.restore()
        network.proxy.wait_cut()
        network.proxy.restore()
        answer = editor.hear_answer(prompt)
        assert answer["result"]["stopReason"] == "end_turn"
        assert is_the_stream(editor.chunks(), 3000)
        # It is as if nothing had been.
        again = editor.prompt(session_id, "hello")
        editor.hear_answer(again)
        assert editor.chunks()[3000:] == ["hello"]
        assert editor.chunks("user_message_chunk") == []
        assert (editor.answers(prompt), editor.answers(again)) == (1, 1)


def test_a_turn_ends_while_nobody_can_hear_it(network: Network) -> None:
    with network.editor() as editor, network.neighbour() as neighbour:
        session_id = editor.open_session()
        joined(neighbour, session_id)
        prompt = editor.prompt(session_id, "/sleep 0.3")
        until_said(neighbour, "/sleep 0.3", "user_message_chunk")
        network.proxy.cut()
        until_said(neighbour, "slept")
        assert neighbour.ask("session/list")["sessions"]  # the turn's end was told before this
        network.proxy.restore()
        assert editor.hear_answer(prompt)["result"]["stopReason"] == "end_turn"
        assert editor.chunks() == ["slept"]
        assert editor.chunks("user_message_chunk") == []
        assert editor.answers(prompt) == 1
        editor.hear_answer(editor.prompt(session_id, "next"))
        until_said(neighbour, "next")
        assert neighbour.chunks("user_message_chunk") == ["/sleep 0.3", "next"]


def test_a_turn_goes_on_when_the_network_is_back(network: Network) -> None:
    with network.editor() as editor:
        session_id = editor.open_session()
        prompt = editor.prompt(session_id, "/ask")
        question = editor.hear_call("session/request_permission")
        connections = network.proxy.accepted
        network.proxy.cut_once()
        network.proxy.wait_accepted(connections + 1)
        editor.say_raw(answer_to(question))
        editor.hear_answer(prompt)
        assert editor.chunks() == ["permission: yes"]
        assert editor.answers(prompt) == 1


def test_what_is_said_without_a_network_arrives_once(network: Network) -> None:
    with network.editor() as editor, network.neighbour() as neighbour:
        session_id = editor.open_session()
        joined(neighbour, session_id)
        network.proxy.cut()
        prompts = [editor.prompt(session_id, text) for text in ("one", "two")]
        listing = editor.request("session/list")
        editor.until_note("trying again")
        network.proxy.restore()
        for prompt in prompts:
            editor.hear_answer(prompt)
        assert editor.chunks() == ["one", "two"]
        until_said(neighbour, "two")
        assert neighbour.chunks("user_message_chunk") == ["one", "two"]
        if not editor.answers(listing):
            editor.hear_answer(listing)
        assert [editor.answers(each) for each in (*prompts, listing)] == [1, 1, 1]


def answer_to(question: dict[str, Any], option: str = "yes") -> dict[str, Any]:
    outcome = {"outcome": {"outcome": "selected", "optionId": option}}
    return {"jsonrpc": "2.0", "id": question["id"], "result": outcome}


@pytest.mark.parametrize("connected", [True, False], ids=["after", "during"])
def test_a_question_is_cut_and_asked_and_answered_once(network: Network, *, connected: bool) -> None:
    with network.editor() as editor, network.neighbour() as neighbour:
        session_id = editor.open_session()
        prompt = editor.prompt(session_id, "/ask")
        question = editor.hear_call("session/request_permission")
        network.proxy.cut()
        editor.until_note("trying again")
        if connected:
            network.proxy.restore()
            editor.until_note("connected again")
        editor.say_raw(answer_to(question, "no"))
        network.proxy.restore()
        editor.hear_answer(prompt)
        assert editor.chunks() == ["permission: no"]
        asked = [message for message in editor.heard if message.get("method") == "session/request_permission"]
        assert len(asked) == 1
        joined(neighbour, session_id)
        assert neighbour.chunks("user_message_chunk") == ["/ask"]


def test_a_question_is_cut_on_its_way(network: Network) -> None:
    with network.editor() as editor:
        session_id = editor.open_session()
        network.proxy.cut_after(b'"session/request_permi')
        prompt = editor.prompt(session_id, "/ask")
        network.proxy.wait_cut()
        network.proxy.restore()
        editor.say_raw(answer_to(editor.hear_call("session/request_permission")))
        editor.hear_answer(prompt)
        assert editor.chunks() == ["permission: yes"]


def test_a_question_that_somebody_else_answers_meanwhile_is_taken_back(network: Network) -> None:
    with network.editor() as editor, network.neighbour() as neighbour:
        session_id = editor.open_session()
        joined(neighbour, session_id)
        prompt = editor.prompt(session_id, "/ask")
        question = editor.hear_call("session/request_permission")
        network.proxy.cut()
        neighbour.say_raw(answer_to(neighbour.hear_call("session/request_permission"), "no"))
        until_said(neighbour, "permission: no")
        network.proxy.restore()
        assert editor.hear_call("$/cancel_request")["params"]["requestId"] == question["id"]
        editor.say_raw(answer_to(question))
        editor.hear_answer(prompt)
        assert editor.chunks() == ["permission: no"]


def test_a_cancel_that_was_said_without_a_network(network: Network) -> None:
    with network.editor() as editor, network.neighbour() as neighbour:
        session_id = editor.open_session()
        joined(neighbour, session_id)
        prompt = editor.prompt(session_id, "/sleep 60")
        until_said(neighbour, "/sleep 60", "user_message_chunk")
        network.proxy.cut()
        editor.say("session/cancel", sessionId=session_id)
        editor.until_note("trying again")
        network.proxy.restore()
        assert editor.hear_answer(prompt)["result"]["stopReason"] == "cancelled"
        assert editor.chunks() == ["woken"]


def test_a_network_that_is_dead_without_a_word(network: Network) -> None:
    with network.editor("--keep-alive", "1") as editor, network.neighbour() as neighbour:
        session_id = editor.open_session()
        joined(neighbour, session_id)
        network.proxy.stall()
        prompt = editor.prompt(session_id, "/stream 100")
        editor.until_note("silent for 1 s")
        network.proxy.restore()
        editor.hear_answer(prompt)
        assert is_the_stream(editor.chunks(), 100)
        editor.hear_answer(editor.prompt(session_id, "next"))
        until_said(neighbour, "next")
        assert neighbour.chunks("user_message_chunk") == ["/stream 100", "next"]


def test_a_session_in_which_nothing_is_said_stays_connected(network: Network) -> None:
    with network.editor("--keep-alive", "0.3") as editor:
        session_id = editor.open_session()
        connections = network.proxy.accepted
        time.sleep(1.2)  # the rule is about time: four times as long as the relay may be silent
        editor.hear_answer(editor.prompt(session_id, "hello"))
        assert network.proxy.accepted == connections


def test_a_replay_is_cut(network: Network) -> None:
    with network.editor() as editor, network.neighbour() as neighbour:
        session_id = neighbour.open_session()
        neighbour.hear_answer(neighbour.prompt(session_id, "/stream 1000"))
        editor.ask("initialize", protocolVersion=1, clientCapabilities={})
        network.proxy.cut_after(b"0000400 ")
        load = editor.request("session/load", sessionId=session_id, cwd="/", mcpServers=[])
        network.proxy.wait_cut()
        network.proxy.restore()
        editor.hear_answer(load)
        assert is_the_stream(editor.chunks(), 1000)
        assert editor.chunks("user_message_chunk") == ["/stream 1000"]


def test_the_answer_to_initialize_is_lost(network: Network) -> None:
    with network.editor() as editor:
        network.proxy.cut_after(b'"protocolVersion"')
        hello = editor.request("initialize", protocolVersion=1, clientCapabilities={})
        network.proxy.wait_cut()
        network.proxy.restore()
        editor.hear_answer(hello)
        session_id = editor.ask("session/new", cwd="/", mcpServers=[])["sessionId"]
        editor.hear_answer(editor.prompt(session_id, "hello"))
        assert editor.chunks() == ["hello"]
        assert editor.answers(hello) == 1


def test_two_sessions_go_on_side_by_side(network: Network) -> None:
    with network.editor() as editor:
        first = editor.open_session()
        second = editor.ask("session/new", cwd="/", mcpServers=[])["sessionId"]
        network.proxy.cut_after(b"0000200 ")
        prompts = [editor.prompt(session_id, "/stream 500") for session_id in (first, second)]
        network.proxy.wait_cut()
        network.proxy.restore()
        for prompt in prompts:
            if not editor.answers(prompt):
                editor.hear_answer(prompt)
        for session_id in (first, second):
            said = [
                message["params"]["update"]["content"]["text"]
                for message in editor.heard
                if message.get("params", {}).get("sessionId") == session_id
                and message["params"]["update"]["sessionUpdate"] == "agent_message_chunk"
            ]
            assert is_the_stream(said, 500)


def test_it_gives_up_with_an_answer_to_everything(network: Network) -> None:
    with network.editor("--give-up", "0.5") as editor:
        session_id = editor.open_session()
        prompt = editor.prompt(session_id, "/sleep 60")
        network.proxy.cut()
        listing = editor.request("session/list")
        for request in (prompt, listing):
            error = editor.hear_answer(request)["error"]
            assert error["code"] == -32603
            assert "no connection for" in error["message"]
        assert editor.exit_code() == 1
        assert "no connection for" in editor.notes()
        assert [editor.answers(request) for request in (prompt, listing)] == [1, 1]


def test_an_editor_that_does_not_listen_holds_up_itself_alone(network: Network) -> None:
    """What it does not take stays with the relay, and not in our memory; and it can still speak."""
    with network.editor("--keep-alive", "1") as editor:
        session_id = editor.open_session()
        editor.pause()
        prompt = editor.prompt(session_id, "/stream 30000 2000")
        network.proxy.wait_quiet(1.5)  # longer than the relay may be silent
        assert editor.memory() < 50_000_000
        editor.say("_x/nothing", text="x" * 1_000_000)
        editor.resume()
        editor.hear_answer(prompt)
        assert is_the_stream(editor.chunks(), 30000)
