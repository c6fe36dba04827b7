"""Sessions over /acp: created, loaded, resumed, listed, closed, lost; on both event loops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.conversation import Entry, Frame, Kind
from relaykit.errors import JournalError, Refused
from relaykit.hooks import hookimpl
from relaykit.hooks.events import SessionRequest
from relaykit_gateway.gateway import Gateway
from support.acp_sockets import AcpSocket, acp_socket, gateway_of, two_clients
from support.gateways import ECHO, gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio

AGENTS = "\n".join(
    f"[agents.{name}]\ncommand = {json.dumps([*ECHO, *flags])}"
    for name, flags in {
        "early": ["--early-update"],
        "login": ["--login-required"],
        "slow": ["--delay", "600"],
        "rude": ["--exit", "3"],
    }.items()
)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    (tmp_path / "shop").mkdir()
    projects = f'[projects.default]\npath = "{tmp_path}"\n[projects.shop]\npath = "{tmp_path}/shop"\n'
    settings = gateway_settings(
        tmp_path, relay='default_project = "default"', agents=AGENTS + "\n" + projects
    )
    async with open_gateway_relay(settings, serve=False) as relay:
        yield gateway_of(relay)


async def test_a_whole_session(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        assert (await socket.told(session_id, "hello"))["stopReason"] == "end_turn"
        assert socket.chunks == ["agent: hello"]
        prompt = socket.prompt(session_id, "/ask")
        question = await socket.skip_to("session/request_permission")
        socket.permit(question["id"], "no")
        await socket.result_of(prompt)
        assert socket.chunks[-1] == "agent: permission: no"
        prompt = socket.prompt(session_id, "/sleep 600")
        socket.notify("session/cancel", sessionId=session_id)
        assert (await socket.result_of(prompt))["stopReason"] == "cancelled"
    async with acp_socket(gateway) as socket:
        await socket.open("load", session_id)
        assert socket.chunks == [
            "user: hello",
            "agent: hello",
            "user: /ask",
            "agent: permission: no",
            "user: /sleep 600",
            "agent: woken",
        ]
        await socket.open("resume", session_id)
        assert len(socket.chunks) == 6
        await socket.told(session_id, "again")
        assert socket.chunks[6:] == ["agent: again"]


# ---------------------------------------------------------------- created


async def test_a_new_session_tells_what_it_is(gateway: Gateway, tmp_path: Path) -> None:
    async with acp_socket(gateway) as socket:
        result = await socket.result_of(
            socket.ask("session/new", cwd="/x", mcpServers=[], _meta={"relaykit": {"role": "auth"}})
        )
        session_id = result.pop("sessionId")
        assert result == {
            "modes": {
                "currentModeId": "echo",
                "availableModes": [{"id": "echo", "name": "echo"}, {"id": "shout", "name": "shout"}],
            },
            "_meta": {
                "relaykit": {
                    "role": "auth",
                    "agent": "echo",
                    "project": "default",
                    "cwd": str(tmp_path),
                    "epoch": gateway.relay.live(session_id).conversation.epoch,
                    "seq": 0,
                    "turnRunning": None,
                }
            },
        }


async def test_what_is_wanted_comes_from_the_request_the_query_the_directory(
    gateway: Gateway, tmp_path: Path
) -> None:
    relay = gateway.relay

    async def made(socket: AcpSocket, cwd: str = "/", **relaykit: str) -> tuple[str, str, str]:
        asked = socket.ask("session/new", cwd=cwd, mcpServers=[], _meta={"relaykit": relaykit})
        session = await relay.require((await socket.result_of(asked))["sessionId"])
        return session.agent_id, session.agent, session.project

    async with acp_socket(gateway) as socket:
        assert await made(socket, role="r1", agent="early", project="shop") == ("r1", "early", "shop")
        for cwd, project in (
            (str(tmp_path / "shop"), "shop"),
            (str(tmp_path / "shop/deep/down"), "shop"),
            (str(tmp_path / "elsewhere"), "default"),
            ("/home/somebody/src/shop", "shop"),
            ("/home/somebody/src/other", "default"),
            ("", "default"),
        ):
            role, agent, chosen = await made(socket, cwd)
            assert (agent, chosen) == ("echo", project)
            assert role.startswith("acp-")
    async with acp_socket(gateway, role="r2", agent="early", project="shop") as socket:
        assert await made(socket, str(tmp_path)) == ("r2", "early", "shop")
        assert await made(socket, role="r3", agent="echo", project="default") == ("r3", "echo", "default")
        error = await socket.error_of(socket.ask("session/new", cwd="/", mcpServers=[]))
        assert error["code"] == -32602
        assert error["data"]["relaykit"]["code"] == "DUPLICATE_ROLE"


async def test_what_an_agent_says_before_its_session_is_open_comes_behind_the_answer(
    gateway: Gateway,
) -> None:
    async with acp_socket(gateway, agent="early") as socket:
        session_id = await socket.new()
        assert socket.chunks == []
        await socket.told(session_id, "hello")
        assert socket.chunks == ["agent: early", "agent: hello"]


@pytest.mark.parametrize(
    ("agent", "code", "word"),
    [
        ("login", -32000, "login needed"),
        ("missing", -32603, "'there-is-no-such-program' was not found"),
        ("rude", -32603, "told to exit"),
    ],
)
async def test_an_agent_that_does_not_start_says_why(
    gateway: Gateway, agent: str, code: int, word: str
) -> None:
    async with acp_socket(gateway, aware=True) as socket:
        asked = socket.ask("session/new", cwd="/", mcpServers=[], _meta={"relaykit": {"agent": agent}})
        error = await socket.error_of(asked)
        assert error["code"] == code
        assert word in error["message"]
        assert error["data"] == {"relaykit": {"code": "SPAWN_FAILED"}}
        ended = await socket.skip_to("_relaykit/session_ended")
        assert ended["params"]["cause"] == "SPAWN_FAILED"


async def test_a_workspace_that_cannot_be_made_says_why(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "shop").rmdir()
    async with acp_socket(gateway, project="shop") as socket:
        error = await socket.error_of(socket.ask("session/new", cwd="/", mcpServers=[]))
        assert error["code"] == -32603
        assert "is missing" in error["message"]
        assert error["data"] == {"relaykit": {"code": "SPAWN_FAILED"}}


async def test_a_new_session_can_be_stopped_or_cancelled_while_it_starts(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket, acp_socket(gateway) as other:
        meta = {"relaykit": {"agent": "slow", "role": "slow"}}
        created = socket.ask("session/new", cwd="/", mcpServers=[], _meta=meta)
        other.ask("session/close", sessionId=await only_session(socket))
        error = await socket.error_of(created)
        assert (error["code"], error["message"]) == (-32603, "the session has ended: closed by a client")
        created = socket.ask("session/new", cwd="/", mcpServers=[], _meta={"relaykit": {"agent": "slow"}})
        session_id = await only_session(socket)
        socket.notify("$/cancel_request", requestId=created)
        assert (await socket.error_of(created))["code"] == -32800
        with anyio.fail_after(20):
            await gateway.relay.wait_ended(session_id)


async def only_session(socket: AcpSocket) -> str:
    """Return the id of the one session that is not ending."""
    sessions = (await socket.result_of(socket.ask("session/list")))["sessions"]
    [session_id] = [
        session["sessionId"]
        for session in sessions
        if session["_meta"]["relaykit"]["state"] in {"CREATED", "SPAWNING"}
    ]
    assert isinstance(session_id, str)
    return session_id


async def test_a_policy_refuses_a_session(tmp_path: Path) -> None:
    class Policy:
        @hookimpl
        async def relaykit_check_session(self, request: SessionRequest) -> None:
            raise Refused(f"no {request.agent_id}")

    settings = gateway_settings(tmp_path)
    async with (
        open_gateway_relay(settings, serve=False, extra={"policy": Policy()}) as relay,
        acp_socket(gateway_of(relay), role="auth") as socket,
    ):
        error = await socket.error_of(socket.ask("session/new", cwd="/", mcpServers=[]))
        assert error["message"] == "refused by plugin 'policy': no auth"
        assert error["data"] == {"relaykit": {"code": "FORBIDDEN"}}


HTTP = {"type": "http", "name": "docs", "url": "http://127.0.0.1:9/", "headers": []}
STDIO = {"name": "tool", "command": "/bin/sh", "args": ["-c", "true"], "env": []}


@pytest.mark.parametrize(
    ("allowed", "refused"), [(False, [HTTP, STDIO]), (True, [STDIO, {**HTTP, "command": "x"}])]
)
async def test_mcp_servers_of_clients(
    tmp_path: Path, refused: list[dict[str, Any]], *, allowed: bool
) -> None:
    settings = gateway_settings(tmp_path, gateway=f"client_mcp_servers = {str(allowed).lower()}")
    async with (
        open_gateway_relay(settings, serve=False) as relay,
        acp_socket(gateway_of(relay)) as socket,
    ):
        session_id = await socket.new()
        for server in refused:
            for method in ("new", "load", "resume"):
                asked = socket.ask(f"session/{method}", sessionId=session_id, cwd="/", mcpServers=[server])
                error = await socket.error_of(asked)
                assert error["code"] == -32602
                assert server["name"] in error["message"]
        if allowed:
            created = await socket.result_of(socket.ask("session/new", cwd="/", mcpServers=[HTTP]))
            assert relay.live(created["sessionId"]).spec.mcp_servers == (HTTP,)


# ---------------------------------------------------------------- loaded and resumed


async def test_loading_replays_and_then_goes_on(gateway: Gateway) -> None:
    async with acp_socket(gateway, role="auth") as one, acp_socket(gateway, aware=True) as other:
        session_id = await one.new()
        await one.told(session_id, "first")
        loaded = await other.open("load", session_id)
        live = gateway.relay.live(session_id)
        facts = loaded["_meta"]["relaykit"]
        assert facts["role"] == "auth"
        assert (facts["epoch"], facts["seq"]) == (live.conversation.epoch, live.conversation.head)
        assert facts["turnRunning"] is None
        assert loaded["modes"]["currentModeId"] == "echo"
        assert [message.get("method") for message in other.heard[1:]] == [
            "session/update",
            "_relaykit/turn_started",
            "session/update",
            "_relaykit/turn_ended",
            None,
        ]
        await one.told(session_id, "second")
        await other.skip_to("_relaykit/turn_ended")
        assert other.chunks == ["user: first", "agent: first", "user: second", "agent: second"]
        seqs = [
            message["params"]["_meta"]["relaykit"]["seq"] for message in other.heard if "method" in message
        ]
        assert seqs == sorted(seqs)
        assert set(seqs) == set(range(2, live.conversation.head + 1))


async def test_only_what_was_missed_is_told_again(gateway: Gateway) -> None:
    async with acp_socket(gateway) as one:
        session_id = await one.new()
        result = await one.told(session_id, "first")
        seq = result["_meta"]["relaykit"]["seq"]
        await one.told(session_id, "second")
        epoch = gateway.relay.live(session_id).conversation.epoch
        for method, said, chunks in (
            ("load", {"after": seq, "epoch": epoch}, ["user: second", "agent: second"]),
            ("load", {"after": seq}, ["user: second", "agent: second"]),
            ("resume", {"after": seq, "epoch": epoch}, ["user: second", "agent: second"]),
            ("resume", {}, []),
            (
                "resume",
                {"epoch": "another"},
                ["user: first", "agent: first", "user: second", "agent: second"],
            ),
            (
                "load",
                {"after": 9999, "epoch": "another"},
                ["user: first", "agent: first", "user: second", "agent: second"],
            ),
        ):
            async with acp_socket(gateway) as other:
                await other.open(method, session_id, **said)
                assert other.chunks == chunks, (method, said)
        async with acp_socket(gateway) as other:
            for method in ("load", "resume"):
                for after in (9999, -1):
                    asked = other.ask(
                        f"session/{method}",
                        sessionId=session_id,
                        _meta={"relaykit": {"after": after, "epoch": epoch}},
                    )
                    assert (await other.error_of(asked))["code"] == -32602
            assert gateway.relay.clients(session_id) == 1
            await other.open("load", session_id)
            assert len(other.chunks) == 4


async def test_loading_once_more_begins_anew_and_loses_nothing(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        await socket.told(session_id, "first")
        prompt = socket.prompt(session_id, "/stream 300 10")
        for _ in range(3):
            socket.ask("session/resume", sessionId=session_id)
        await socket.result_of(prompt)
        assert [chunk.split()[1] for chunk in socket.chunks if "agent: 0" in chunk] == [
            f"{number:07}" for number in range(300)
        ]
        await socket.open("load", session_id)
        assert socket.chunks[-302] == "agent: first"
        prompt = socket.prompt(session_id, "/sleep 600")
        wrong = socket.ask("session/load", sessionId=session_id, _meta={"relaykit": {"after": -1}})
        assert (await socket.error_of(wrong))["code"] == -32602
        socket.notify("session/cancel", sessionId=session_id)  # what waits, waits on
        assert (await socket.result_of(prompt))["stopReason"] == "cancelled"
        assert gateway.relay.clients(session_id) == 1


async def test_a_second_load_answers_the_first(gateway: Gateway) -> None:
    meta = {"relaykit": {"agent": "slow"}}
    async with acp_socket(gateway) as one, acp_socket(gateway) as socket:
        one.ask("session/new", cwd="/", mcpServers=[], _meta=meta)
        session_id = await only_session(one)
        first = socket.ask("session/load", sessionId=session_id)
        second = socket.ask("session/load", sessionId=session_id)
        assert (await socket.error_of(first))["code"] == -32800
        await gateway.relay.stop(session_id, "enough")
        assert "enough" in (await socket.error_of(second))["message"]


async def test_one_connection_holds_many_sessions(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        ids = [await socket.new() for _ in range(3)]
        prompts = [
            socket.prompt(session_id, f"/stream 20 {20 + place}") for place, session_id in enumerate(ids)
        ]
        answered: set[int] = set()
        while answered != set(prompts):
            message = await socket.hear()
            if message.get("id") in prompts:
                assert message["result"]["stopReason"] == "end_turn"
                answered.add(message["id"])
        for place, session_id in enumerate(ids):
            lengths = {
                len(message["params"]["update"]["content"]["text"])
                for message in socket.heard
                if message.get("params", {}).get("sessionId") == session_id
            }
            assert lengths == {20 + place}


async def test_a_session_that_is_named_is_followed(gateway: Gateway) -> None:
    async with acp_socket(gateway) as one, acp_socket(gateway) as other:
        session_id = await one.new()
        await one.told(session_id, "before")
        assert (await other.told(session_id, "after"))["stopReason"] == "end_turn"
        assert other.chunks == ["agent: after"]
        await one.told(session_id, "more")
        while "agent: more" not in other.chunks:
            await other.hear()
        assert other.chunks == ["agent: after", "user: more", "agent: more"]


# ---------------------------------------------------------------- gaps and failures


def filler(mebibytes: int) -> Frame:
    """Return what pushes everything else out of memory, if it is said often enough."""
    return Frame(Kind.UPDATE, b'{"x":"%b"}' % (b"x" * (mebibytes << 20)), method="_filler")


async def test_what_was_trimmed_is_told_to_who_knows_relaykit(gateway: Gateway) -> None:
    async with acp_socket(gateway) as one:
        session_id = await one.new()
        live = gateway.relay.live(session_id)
        for _ in range(3):
            await live.conversation.publish([filler(5)])
        await gateway.relay._transcripts.journal.trim(session_id, through=2)
        async with acp_socket(gateway, aware=True) as aware, acp_socket(gateway) as plain:
            await aware.open("load", session_id)
            assert aware.heard[1] == {
                "jsonrpc": "2.0",
                "method": "_relaykit/gap",
                "params": {
                    "sessionId": session_id,
                    "_meta": {"relaykit": {"seq": 2}},
                    "from": 1,
                    "to": 2,
                },
            }
            await plain.open("load", session_id)
            for socket in (aware, plain):
                filled = [message["params"] for message in socket.heard if message.get("method") == "_filler"]
                assert [params["_meta"]["relaykit"]["seq"] for params in filled] == [3, 4]
            assert not any(message.get("method") == "_relaykit/gap" for message in plain.heard)


async def test_a_journal_that_cannot_be_read_fails_what_waits_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Sequence[Entry]:
        raise JournalError("the disk is gone")

    async with acp_socket(gateway) as one, acp_socket(gateway) as other:
        session_id = await one.new()
        for _ in range(2):
            await gateway.relay.live(session_id).conversation.publish([filler(9)])
        with monkeypatch.context() as patched:
            patched.setattr(gateway.relay._transcripts.journal, "read", fail)
            error = await other.error_of(other.ask("session/load", sessionId=session_id))
        assert error["code"] == -32603
        assert "load the session again, after 0" in error["message"]
        await other.open("load", session_id)
        assert (await other.told(session_id, "on"))["stopReason"] == "end_turn"


async def test_a_transcript_without_an_end(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as socket:
        session_id = await socket.new()
        prompt = socket.prompt(session_id, "/sleep 600")
        await socket.skip_to("_relaykit/turn_started")
        await gateway.relay.live(session_id).conversation.aclose()
        assert "does not tell how" in (await socket.error_of(prompt))["message"]
        ended = await socket.skip_to("_relaykit/session_ended")
        assert ended["params"]["cause"] == "INTERNAL"


# ---------------------------------------------------------------- listed and closed


async def test_sessions_are_listed(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with acp_socket(gateway) as socket:
        auth = await socket.new(role="auth")
        shop = await socket.new(role="till", project="shop")

        async def listed(socket: AcpSocket = socket, **params: Any) -> list[str]:
            result = await socket.result_of(socket.ask("session/list", params))
            return sorted(session["sessionId"] for session in result["sessions"])

        [found] = (await socket.result_of(socket.ask("session/list", cwd=str(tmp_path / "shop"))))["sessions"]
        session = await gateway.relay.require(shop)
        assert found == {
            "sessionId": shop,
            "cwd": str(tmp_path / "shop"),
            "title": "till",
            "updatedAt": session.activity.last_active.isoformat(timespec="milliseconds").replace(
                "+00:00", "Z"
            ),
            "_meta": {
                "relaykit": {
                    "role": "till",
                    "agent": "echo",
                    "owner": "local",
                    "project": "shop",
                    "state": "ACTIVE",
                    "presence": "AWAKE",
                    "needsLogin": False,
                }
            },
        }
        assert await listed() == sorted([auth, shop])
        assert await listed(cwd=None) == sorted([auth, shop])
        assert await listed(cwd="/elsewhere") == [auth]
        async with acp_socket(gateway, project="shop") as other:
            assert await listed(other) == await listed(other, cwd="/elsewhere") == [shop]
        async with acp_socket(gateway, project="nothing") as other:
            assert (await other.error_of(other.ask("session/list")))["code"] == -32602
        monkeypatch.setattr("relaykit_gateway.acp.methods._PAGE", 1)
        first = await socket.result_of(socket.ask("session/list"))
        second = await socket.result_of(socket.ask("session/list", cursor=first["nextCursor"]))
        assert "nextCursor" not in second
        pages = [session["sessionId"] for page in (first, second) for session in page["sessions"]]
        assert pages == sorted([auth, shop])


async def test_closing_ends_the_session_and_what_waits(gateway: Gateway) -> None:
    async with acp_socket(gateway) as one, acp_socket(gateway, aware=True) as other:
        session_id = await one.new()
        await other.open("load", session_id)
        running = one.prompt(session_id, "/sleep 600")
        waiting = one.prompt(session_id, "hello")
        called = one.ask("_echo/sleep", sessionId=session_id, seconds=600)
        await other.skip_to("_relaykit/turn_started")
        closed = other.ask("session/close", sessionId=session_id)
        assert await other.result_of(closed) == {}
        for request in (running, waiting, called):
            error = await one.error_of(request)
            assert error["code"] == -32603
            assert "closed by a client" in error["message"] or "echo" in error["message"]
        ended = next(
            (message for message in other.heard if message.get("method") == "_relaykit/session_ended"), None
        ) or await other.skip_to("_relaykit/session_ended")
        params = ended["params"]
        assert (params["sessionId"], params["cause"]) == (session_id, "REQUESTED")
        assert params["reason"] == "closed by a client"
        assert {step["outcome"] for step in params["cleanup"]} == {"DONE"}
        assert not any("_relaykit" in message.get("method", "") for message in one.heard)
        with anyio.fail_after(20):
            await gateway.relay.wait_ended(session_id)
        assert (await one.error_of(one.prompt(session_id, "hello")))["code"] == -32002


async def test_an_agent_that_crashes_comes_back(gateway: Gateway) -> None:
    async with two_clients(gateway) as (plain, aware, session_id):
        crashed = plain.prompt(session_id, "/crash 3")
        waiting = plain.prompt(session_id, "hello")
        error = await plain.error_of(crashed)
        assert error["code"] == -32603
        assert "interrupted: agent 'echo': it exited with 3" in error["message"]
        assert "told to crash" in error["message"]
        assert (await plain.result_of(waiting))["stopReason"] == "end_turn"
        told = (await aware.skip_to("_relaykit/agent_crashed"))["params"]
        reason = "agent 'echo': it exited with 3; its last words were:\necho: told to crash"
        assert (told["sessionId"], told["reason"]) == (session_id, reason)
        awake = (await aware.skip_to("_relaykit/session_awake"))["params"]
        assert awake["_meta"]["relaykit"]["seq"] > told["_meta"]["relaykit"]["seq"]
