"""What clients of each kind may do over /ws and over /acp: every method, role and owner; on both loops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relaykit.relay.access import Access, Role
from relaykit.session import SessionFilter
from relaykit_gateway.app import build_app
from relaykit_gateway.credentials import OWN
from relaykit_gateway.gateway import Gateway
from support.acp_sockets import AcpSocket, acp_socket, gateway_of
from support.gateways import gateway_settings, open_gateway_relay
from support.tokens import ANN, OBSERVER, add_token
from support.ws_sockets import WsSocket, ws_socket

pytestmark = pytest.mark.anyio

PERMISSION = "session/request_permission"
TWO_PROJECTS = '[projects.here]\npath = "."\n[projects.there]\npath = "."\n'

SEEN, UNSEEN, WATCHED = "seen", "unseen", "watched"
KINDS: dict[str, tuple[Access, str]] = {
    "controller": (Access(), SEEN),
    "controller of its project": (Access(projects=frozenset({"here"})), SEEN),
    "observer": (OBSERVER, WATCHED),
    "observer of its project": (Access(role=Role.OBSERVER, projects=frozenset({"here"})), WATCHED),
    "another owner": (ANN, UNSEEN),
    "another owner's observer": (Access(owner="ann", role=Role.OBSERVER), UNSEEN),
    "of another project": (Access(projects=frozenset({"there"})), UNSEEN),
    "of another session": (Access(sessions=frozenset({"nobody"})), UNSEEN),
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    settings = gateway_settings(tmp_path, agents=TWO_PROJECTS, relay='default_project = "here"')
    async with open_gateway_relay(settings, serve=False) as relay:
        yield gateway_of(relay)


def token_for(gateway: Gateway, access: Access) -> str:
    """Return a token for this."""
    return add_token(gateway.relay.settings.state_dir, gateway.relay.ids.new_id(), access)


# ---------------------------------------------------------------- /ws

WS_CONTROLLING: dict[str, dict[str, Any]] = {
    "agent:message": {"content": "hello"},
    "agent:cancel": {},
    "permission:response": {"requestId": "REF", "optionId": "no-such"},
    "session:stop": {},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_message(gateway: Gateway, kind: str) -> None:
    access, sight = KINDS[kind]
    async with ws_socket(gateway) as owner, ws_socket(gateway, token=token_for(gateway, access)) as client:
        owner.say("session:create", agentId="auth")
        session_id = (await owner.skip_to("session:ready"))["sessionId"]
        owner.say("agent:message", sessionId=session_id, content="/ask")
        ref = (await owner.skip_to("permission:request"))["requestId"]

        async def code_of(type_: str, **fields: Any) -> str:
            client.say(type_, sessionId=session_id, **fields)
            error: str = (await client.skip_to("error"))["error"]["code"]
            return error

        client.say("session:list")
        listed = [each["id"] for each in (await client.skip_to("session:list"))["sessions"]]
        assert listed == ([] if sight == UNSEEN else [session_id])
        if sight == UNSEEN:
            assert await code_of("session:attach") == "SESSION_NOT_FOUND"
        else:
            client.say("session:attach", sessionId=session_id)
            question = await client.skip_to("permission:request")
            assert question.get("answerable") is (False if sight == WATCHED else None)
            assert question["requestId"] == ref
            await client.skip_to("session:caught_up")
        if sight == SEEN:
            client.say("permission:response", sessionId=session_id, requestId=ref, optionId="yes")
            await owner.skip_to("permission:resolved")
            client.say("session:stop", sessionId=session_id)
            await owner.skip_to("session:terminated")
            return
        expected = "NOT_ALLOWED" if sight == WATCHED else "SESSION_NOT_FOUND"
        for type_, fields in WS_CONTROLLING.items():
            told = {name: ref if value == "REF" else value for name, value in fields.items()}
            assert await code_of(type_, **told) == expected, type_
        assert [question.request.ref for question in gateway.relay.live(session_id).questions] == [ref]
        if sight == WATCHED:  # and it goes on being told
            owner.say("permission:response", sessionId=session_id, requestId=ref, optionId="yes")
            assert (await client.skip_to("permission:resolved"))["optionId"] == "yes"
            await client.skip_to("agent:response")


@pytest.mark.parametrize(
    ("access", "project", "code"),
    [
        (ANN, "", None),
        (Access(projects=frozenset({"there"})), "", None),
        (Access(projects=frozenset({"there"})), "here", "UNKNOWN_PROJECT"),
        (OBSERVER, "", "NOT_ALLOWED"),
        (Access(sessions=frozenset({"nobody"})), "", "NOT_ALLOWED"),
    ],
)
async def test_who_creates(gateway: Gateway, access: Access, project: str, code: str | None) -> None:
    token = token_for(gateway, access)
    async with ws_socket(gateway, token=token) as ws, acp_socket(gateway, token=token) as acp:
        ws.say("session:create", agentId="one", project=project)
        meta = {"_meta": {"relaykit": {"role": "two", "project": project}}}
        asked = acp.ask("session/new", cwd="/", mcpServers=[], **meta)
        if code is not None:
            assert (await ws.skip_to("error"))["error"]["code"] == code
            assert (await acp.error_of(asked))["data"]["relaykit"]["code"] == code
            assert await gateway.relay.list(SessionFilter()) == []
            return
        await ws.skip_to("session:ready")
        created = await acp.result_of(asked)
        assert created["_meta"]["relaykit"]["project"] == ("there" if access.projects else "here")
        owners = {session.owner for session in await gateway.relay.list(SessionFilter())}
        assert owners == {access.owner}
        for other_token, seen in (
            (token_for(gateway, Access()), 2 if access.owner == "local" else 0),
            ("", 2),  # the relay's own sees everybody's
        ):
            async with ws_socket(gateway, token=other_token) as other:
                other.say("session:list")
                theirs = (await other.skip_to("session:list"))["sessions"]
                assert [each["owner"] for each in theirs] == [access.owner] * seen


# ---------------------------------------------------------------- /acp


async def test_a_directory_suggests_no_project_that_is_not_seen(gateway: Gateway, tmp_path: Path) -> None:
    token = token_for(gateway, Access(projects=frozenset({"there"})))
    async with acp_socket(gateway, token=token) as client:
        for cwd in (str(tmp_path), "/somewhere/here"):
            created = await client.result_of(client.ask("session/new", cwd=cwd, mcpServers=[]))
            assert created["_meta"]["relaykit"]["project"] == "there"


ACP_CONTROLLING: dict[str, dict[str, Any]] = {
    "session/prompt": {"prompt": [{"type": "text", "text": "hello"}]},
    "session/cancel": {},
    "session/close": {},
    "session/set_mode": {"modeId": "code"},
    "_echo/sleep": {"seconds": 0},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_method(gateway: Gateway, kind: str) -> None:
    access, sight = KINDS[kind]
    token = token_for(gateway, access)
    async with acp_socket(gateway) as owner, acp_socket(gateway, token=token) as client:
        session_id = await owner.new(project="here")
        prompt = owner.prompt(session_id, "/ask")
        ref = (await owner.skip_to(PERMISSION))["id"]
        listed = await client.result_of(client.ask("session/list"))
        assert [each["sessionId"] for each in listed["sessions"]] == ([] if sight == UNSEEN else [session_id])
        expected = {
            UNSEEN: (-32002, "SESSION_NOT_FOUND"),
            WATCHED: (-32003, "NOT_ALLOWED"),
            SEEN: (0, ""),
        }[sight]
        for method in ("session/load", "session/resume"):
            asked = client.ask(method, sessionId=session_id, cwd="/", mcpServers=[])
            if sight == UNSEEN:
                error = await client.error_of(asked)
                assert (error["code"], error["data"]["relaykit"]["code"]) == expected
            else:
                await client.result_of(asked)
        if sight == SEEN:
            assert (await client.skip_to(PERMISSION))["id"] == ref
            client.permit(ref)
            assert (await owner.result_of(prompt))["stopReason"] == "end_turn"
            assert await client.result_of(client.ask("session/close", sessionId=session_id)) is not None
            return
        for method, params in ACP_CONTROLLING.items():
            error = await client.error_of(client.ask(method, sessionId=session_id, **params))
            assert (error["code"], error["data"]["relaykit"]["code"]) == expected, method
        client.permit(ref, "no")  # nobody has asked it
        client.notify("session/cancel", sessionId=session_id)
        client.notify("$/cancel_request", requestId=ref)
        await client.result_of(client.ask("session/list"))  # so that all that has been acted on
        assert PERMISSION not in [message.get("method") for message in client.heard]
        assert [question.request.ref for question in gateway.relay.live(session_id).questions] == [ref]
        owner.permit(ref)
        assert (await owner.result_of(prompt))["stopReason"] == "end_turn"
        if sight == UNSEEN:
            assert gateway.relay.clients(session_id) == 1


def about_questions(socket: AcpSocket) -> list[str]:
    told = {PERMISSION, "$/cancel_request", "_relaykit/question", "_relaykit/question_closed"}
    return [message["method"] for message in socket.heard if message.get("method") in told]


async def test_questions_are_information_for_observers(gateway: Gateway) -> None:
    token = token_for(gateway, OBSERVER)
    async with (
        acp_socket(gateway) as owner,
        acp_socket(gateway, token=token) as plain,
        acp_socket(gateway, token=token, aware=True) as aware,
    ):
        session_id = await owner.new()
        for watcher in (plain, aware):
            await watcher.open("load", session_id)
        prompt = owner.prompt(session_id, "/ask")
        asked = await owner.skip_to(PERMISSION)
        told = await aware.skip_to("_relaykit/question")
        assert "id" not in told
        meta = asked["params"].pop("_meta")
        params = told["params"].pop("params")
        assert told["params"] == {
            "sessionId": session_id,
            "_meta": meta,
            "requestId": asked["id"],
            "method": PERMISSION,
            "answerable": False,
        }
        assert params["options"] == asked["params"]["options"]
        async with acp_socket(gateway, token=token, aware=True) as late:
            await late.open("load", session_id)
            assert (await late.skip_to("_relaykit/question"))["params"]["requestId"] == asked["id"]
            await late.open("resume", session_id)
            assert (await late.skip_to("_relaykit/question"))["params"]["requestId"] == asked["id"]
        owner.permit(asked["id"])
        await owner.result_of(prompt)
        await aware.skip_to("_relaykit/turn_ended")
        assert about_questions(aware) == ["_relaykit/question", "_relaykit/question_closed"]
        while "agent: permission: yes" not in plain.chunks:
            await plain.hear()
        assert about_questions(plain) == []


async def test_an_observer_that_is_refused_does_not_begin_to_follow(gateway: Gateway) -> None:
    async with (
        acp_socket(gateway) as owner,
        acp_socket(gateway, token=token_for(gateway, OBSERVER)) as client,
    ):
        session_id = await owner.new()
        await client.error_of(client.prompt(session_id, "hello"))
        assert gateway.relay.clients(session_id) == 1
        await client.open("load", session_id)
        assert (gateway.relay.clients(session_id), gateway.relay.observers(session_id)) == (2, 1)


async def test_clients_are_told_their_role(gateway: Gateway) -> None:
    for access, role in ((Access(), "controller"), (OBSERVER, "observer")):
        token = token_for(gateway, access)
        async with (
            ws_socket(gateway, token=token) as ws,
            acp_socket(gateway, token=token, initialized=False) as acp,
        ):
            assert ws.heard[0]["clientRole"] == role
            assert (await acp.initialize())["_meta"]["relaykit"]["clientRole"] == role


@pytest.mark.parametrize("token", ["narrow", "wide", "wrong"])
async def test_the_servers_own_log_finds_no_secret_in_what_it_has_made(gateway: Gateway, token: str) -> None:
    secret = {
        "narrow": token_for(gateway, OBSERVER),
        "wide": token_for(gateway, Access()),
        "wrong": "rkt_x",
    }[token]
    ticket = gateway.tickets.issue(OWN)
    heard: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if not heard else {"type": "websocket.disconnect", "code": 1000}

    async def send(event: Any) -> None:
        heard.append(event)

    for query, protocols in (
        (f"agent=echo&token={secret}&%74oken={secret}", []),
        ("agent=echo", ["relaykit", f"relaykit.ticket.{ticket}", "x"]),
    ):
        heard.clear()
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/acp",
            "query_string": query.encode(),
            "headers": [
                (b"host", b"127.0.0.1:7433"),
                (b"sec-websocket-protocol", ", ".join(protocols).encode()),
            ],
            "server": ("127.0.0.1", 7433),
            "subprotocols": protocols,
        }
        await build_app(gateway)(scope, receive, send)
        assert heard
        assert secret not in str(scope)
        assert ticket not in str(scope)
        assert scope["query_string"] == b"agent=echo"
        assert scope["subprotocols"] == [each for each in protocols if ticket not in each]


async def test_owners_do_not_see_each_other(gateway: Gateway) -> None:
    async with (
        ws_socket(gateway, token=token_for(gateway, ANN)) as ann,
        ws_socket(gateway, token=token_for(gateway, Access())) as local,
    ):
        ids: dict[WsSocket, str] = {}
        for client in (ann, local):  # the same role of the same project
            client.say("session:create", agentId="auth")
            ids[client] = (await client.skip_to("session:ready"))["sessionId"]
        for client, other in ((ann, local), (local, ann)):
            client.say("session:list")
            listed = await client.skip_to("session:list")
            assert [each["id"] for each in listed["sessions"]] == [ids[client]]
            for type_ in ("session:attach", "session:stop"):
                client.say(type_, sessionId=ids[other])
                there = (await client.skip_to("error"))["error"]
                client.say(type_, sessionId="0" * 32)
                nowhere = (await client.skip_to("error"))["error"]
                # Word for word what is said of what never was.
                assert there["message"].replace(ids[other], "X") == nowhere["message"].replace("0" * 32, "X")
                assert there["code"] == nowhere["code"]
