"""The command: what it connects to and with which token, how it ends, and what it loads."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from relaykit_gateway.connect.target import BadTarget, Wanted, endpoint
from support.connecting import COMMAND, SECONDS, connect_editor
from support.programs import Place
from support.servers import Server, relay

WRONG = "no-token-of-this-relay"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def server(state: Path) -> Iterator[Server]:
    with relay(state_dir=state) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def address(server: Server) -> str:
    return server.url.removesuffix("/ws")


def token(server: Server) -> str:
    return server.headers["Authorization"].removeprefix("Bearer ")


# ---------------------------------------------------------------- how it ends


def test_the_end_of_the_input_ends_it_and_the_session_lives_on(server: Server) -> None:
    with connect_editor(address(server), RELAYKIT_TOKEN=token(server)) as editor:
        session_id = editor.open_session()
        prompt = editor.prompt(session_id, "/sleep 0.2")
        editor.end_input()
        assert editor.exit_code() == 0
        assert editor.notes() == ""
        assert editor.answers(prompt) == 0
    with connect_editor(address(server), RELAYKIT_TOKEN=token(server)) as editor:
        editor.ask("initialize", protocolVersion=1, clientCapabilities={})
        editor.ask("session/load", sessionId=session_id, cwd="/", mcpServers=[])
        while "slept" not in editor.chunks():  # the last that was said before the end arrived
            editor.hear()
        assert editor.chunks("user_message_chunk") == ["/sleep 0.2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(server: Server, number: signal.Signals) -> None:
    with connect_editor(address(server), RELAYKIT_TOKEN=token(server)) as editor:
        editor.open_session()
        editor.signal(number)
        assert editor.exit_code() == 0
        assert editor.notes() == ""


def test_a_signal_ends_it_also_while_it_connects() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        connect_editor(f"ws://127.0.0.1:{silent.getsockname()[1]}") as editor,
    ):
        connection, _ = silent.accept()
        with connection:
            editor.signal(signal.SIGTERM)
            assert editor.exit_code() == 0


def test_an_editor_that_hears_no_more_is_no_error(server: Server, place: Place) -> None:
    hello = b'{"jsonrpc":"2.0","id":%d,"method":"initialize","params":{"protocolVersion":1}}\n'
    pipe = subprocess.PIPE
    environment = place.environment(RELAYKIT_TOKEN=token(server))
    command = [*COMMAND, address(server)]
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(hello % 1)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.stdout.close()
        process.stdin.write(hello % 2)
        process.stdin.flush()
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b""


# ---------------------------------------------------------------- which relay, which token


def test_the_relay_that_runs_here_needs_nothing(server: Server, state: Path) -> None:
    with connect_editor("--role", "here", RELAYKIT_RELAY__STATE_DIR=str(state)) as editor:
        session_id = editor.open_session()
        listed = editor.ask("session/list")["sessions"]
        roles = {each["sessionId"]: each["_meta"]["relaykit"]["role"] for each in listed}
        assert roles[session_id] == "here"
    with connect_editor(
        address(server), RELAYKIT_RELAY__STATE_DIR=str(state), RELAYKIT_TOKEN=WRONG
    ) as editor:
        editor.open_session()


def test_the_relay_here_is_started_anew(tmp_path: Path) -> None:
    """Its port is another, and what it remembered is gone: the editor is told, and begins again."""
    with ExitStack() as first:
        first.enter_context(relay(state_dir=tmp_path))
        with connect_editor(RELAYKIT_RELAY__STATE_DIR=str(tmp_path)) as editor:
            old = editor.open_session()
            first.close()
            with relay(state_dir=tmp_path):
                assert editor.hear_answer(editor.prompt(old, "hello"))["error"]["code"] == -32002
                new = editor.ask("session/new", cwd="/", mcpServers=[])["sessionId"]
                editor.hear_answer(editor.prompt(new, "hello"))
                assert editor.chunks() == ["hello"]


@pytest.mark.usefixtures("server")
def test_no_other_relay_gets_the_token_of_the_one_here(state: Path) -> None:
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with connect_editor(url, RELAYKIT_RELAY__STATE_DIR=str(state)) as editor:
            connection, _ = other.accept()
            with connection:
                heads.append(connection.recv(65536))
            assert editor.exit_code() == 1
    assert b"GET /acp HTTP/1.1" in heads[0]
    assert b"uthorization" not in heads[0]


def test_a_token_out_of_a_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{token(server)}\n")
    with connect_editor(address(server), "--token-file", str(file), RELAYKIT_TOKEN=WRONG) as editor:
        editor.open_session()


@pytest.mark.parametrize(
    ("arguments", "known", "said"),
    [
        (["{url}"], "", "wants a token: set RELAYKIT_TOKEN, or name a file with it by --token-file"),
        (["{url}"], WRONG, "wants another token: set RELAYKIT_TOKEN"),
        (["{url}"], f"{WRONG}\n{WRONG}", "what RELAYKIT_TOKEN holds is no token"),
        (["{url}", "--token-file", "/nowhere"], "", "cannot be read from '/nowhere': No such file"),
        (["{url}", "--token-file", "/dev/null"], "", "the token file '/dev/null' is empty"),
        (["{url}/?token=" + WRONG], "", "a token does not belong into the URL"),
        (["ws://user:" + WRONG + "@relay"], "", "a token does not belong into the URL"),
        (["127.0.0.1:7433"], "", "'127.0.0.1:7433' is not the URL of a relay: write it as https://"),
        (
            ["ws://127.0.0.1:1"],
            "",
            "nobody answers at ws://127.0.0.1:1/acp: Connection refused; is the relay",
        ),
        (["ws://relay.invalid"], "", "nobody answers at ws://relay.invalid/acp: "),
        (["{url}/elsewhere"], "{token}", "or one that has no /acp: check the address"),
        ([], "", "start one with `relaykit serve`"),
    ],
    ids=[
        *("no token", "wrong token", "no word", "no file", "empty file", "query", "userinfo"),
        *("no URL", "refused", "no name", "404", "no relay"),
    ],
)
def test_what_goes_wrong_at_first_is_said(
    server: Server, place: Place, arguments: list[str], known: str, said: str
) -> None:
    arguments = [argument.replace("{url}", address(server)) for argument in arguments]
    done = place.run("connect", *arguments, RELAYKIT_TOKEN=known.replace("{token}", token(server)))
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert WRONG not in done.stderr


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Listen, and answer the first request with this."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "no relay answers at ws://127.0.0.1:"),
        (b"", "no relay answers at ws://127.0.0.1:"),
        (b'HTTP/1.1 403 X\r\nContent-Length: 15\r\n\r\n{"detail":"so"}', "lets nobody in from here: so"),
        (b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n", "or one that has no /acp: check the address"),
        (b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n", "answers with HTTP status 502: try again later"),
    ],
    ids=["ssh", "nothing", "403", "no acp", "502"],
)
def test_who_answers_is_no_relay(place: Place, answer: bytes, said: str) -> None:
    with answering(answer) as url:
        done = place.run("connect", url)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_seconds_are_checked(place: Place) -> None:
    for text in ("0", "-1", "nan", "soon"):
        done = place.run("connect", "--keep-alive", text)
        assert done.returncode == 2
        assert f"{text!r} is no number of seconds above 0" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "uri"),
    [
        (Wanted(url="http://h:1"), "ws://h:1/acp"),
        (Wanted(url="https://h/"), "wss://h/acp"),
        (Wanted(url="WSS://h/relay/"), "wss://h/relay/acp"),
        (Wanted(url="ws://[::1]:1/acp"), "ws://[::1]:1/acp"),
        (Wanted(url="ws://h/acp?agent=a&x=1", agent="b", role="r s"), "ws://h/acp?agent=b&x=1&role=r+s"),
        (Wanted(url="ws://h", project="p"), "ws://h/acp?project=p"),
    ],
)
def test_urls(wanted: Wanted, uri: str) -> None:
    assert endpoint(wanted) == uri


@pytest.mark.parametrize(
    "url", ["ftp://h", "h", "http://", "http://h:0", "http://h:99999", "http://[::1", "//h"]
)
def test_no_urls(url: str) -> None:
    with pytest.raises(BadTarget, match="is not the URL of a relay"):
        endpoint(Wanted(url=url))


# ---------------------------------------------------------------- how it starts


def test_nothing_heavy_is_loaded_before_the_first_byte_is_sent(place: Place) -> None:
    """Each of these would take longer than it takes to start without it."""
    code = (
        "import json, sys; from relaykit.commands import main; "
        "code = main(['connect', 'ws://127.0.0.1:1']); print(json.dumps([code, *sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=place.work,
        env=place.environment(),
    )
    code_and_modules = json.loads(done.stdout)
    assert code_and_modules[0] == 1
    heavy = {
        "anyio",
        "asyncio",
        "msgspec",
        "ssl",
        "starlette",
        "trio",
        "uvicorn",
        "http.client",
        "concurrent",
        "importlib.metadata",
        "pluggy",
        "websockets",
    }
    assert heavy & set(code_and_modules) == set()
    assert "relaykit_gateway.connect.dialing" in code_and_modules
