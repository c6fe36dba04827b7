"""The WebSocket of `relaykit connect`, held to the library `websockets` as the other side."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from relaykit_gateway.connect.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INVALID_DATA,
    MAX_MESSAGE_BYTES,
    MESSAGE_TOO_BIG,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    FrameReader,
    ProtocolBroken,
    frame,
)
from relaykit_gateway.connect.link import Link, LinkLost
from relaykit_gateway.connect.upgrade import (
    Endpoint,
    NoWebSocket,
    check_answer,
    endpoint_of,
    new_key,
    read_answer,
    request_for,
)

# ---------------------------------------------------------------- frames


def open_server() -> ServerProtocol:
    return ServerProtocol(state=OPEN, max_size=None)


def sent(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Return a frame as a server sends it."""
    return Frame(Opcode(opcode), payload, fin=final).serialize(mask=False)


@pytest.mark.parametrize("size", [0, 1, 3, 125, 126, 127, 65535, 65536, (1 << 20) - 1, (1 << 20) + 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_server_understands_what_is_written(size: int, opcode: int) -> None:
    payload = bytes(range(251)) * (size // 251 + 1)
    server = open_server()
    server.receive_data(frame(opcode, payload[:size]))
    assert server.events_received() == [Frame(Opcode(opcode), payload[:size])]


def test_no_two_masks_are_alike() -> None:
    assert len({frame(TEXT, b"x" * 8)[2:6] for _ in range(8)}) > 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
@given(
    messages=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from([TEXT, BINARY]), st.lists(st.binary(max_size=200), min_size=1, max_size=3)
            ),
            st.tuples(st.just(PING), st.binary(max_size=125).map(lambda payload: [payload])),
            st.tuples(st.sampled_from([TEXT]), st.just([b"x" * 70_000])),
        ),
        max_size=6,
    ),
    cuts=st.lists(st.integers(min_value=0, max_value=3000), max_size=6),
)
def test_whatever_way_it_is_cut_each_text_comes_once(
    messages: Sequence[tuple[int, list[bytes]]], cuts: list[int]
) -> None:
    stream = b"".join(
        sent(CONTINUATION if number else opcode, piece, final=number == len(pieces) - 1)
        for opcode, pieces in messages
        for number, piece in enumerate(pieces)
    )
    reader, texts, answers = FrameReader(), list[bytes](), list[bytes]()
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in pairwise(edges):
        new_texts, new_answers = reader.take(stream[start:end])
        texts += new_texts
        answers += new_answers
    assert texts == [b"".join(pieces) for opcode, pieces in messages if opcode == TEXT]
    server = open_server()
    server.receive_data(b"".join(answers))
    pongs = [Frame(Opcode.PONG, pieces[0]) for opcode, pieces in messages if opcode == PING]
    assert server.events_received() == pongs


def test_a_ping_may_come_between_the_pieces_of_a_message() -> None:
    stream = sent(TEXT, b"a", final=False) + sent(PING, b"?") + sent(PONG) + sent(CONTINUATION, b"b")
    texts, answers = FrameReader().take(stream)
    assert texts == [b"ab"]
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("payload", "closed"),
    [
        (b"", (1005, "")),
        (Close(1000, "").serialize(), (1000, "")),
        (Close(1009, "tröt").serialize(), (1009, "tröt")),
        (Close(4001, "x").serialize(), (4001, "x")),
    ],
)
def test_behind_a_goodbye_nothing_is_read(payload: bytes, closed: tuple[int, str]) -> None:
    reader = FrameReader()
    texts, answers = reader.take(sent(TEXT, b"last") + sent(CLOSE, payload) + sent(TEXT, b"no"))
    assert texts == [b"last"]
    assert reader.closed == closed
    server = open_server()
    server.send_close(1000)
    server.receive_data(answers[0])
    assert server.close_rcvd is not None
    assert server.close_rcvd.code == closed[0]
    assert reader.take(sent(TEXT, b"no")) == ([], [])


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"\xc1\x00", PROTOCOL_ERROR),
        (b"\x83\x00", PROTOCOL_ERROR),
        (b"\x8b\x00", PROTOCOL_ERROR),
        (b"\x81\x81abcdx", PROTOCOL_ERROR),
        (b"\x81\xfe\x00\x7eabcd", PROTOCOL_ERROR),
        (sent(CONTINUATION, b"x"), PROTOCOL_ERROR),
        (sent(TEXT, b"x", final=False) + sent(TEXT, b"x"), PROTOCOL_ERROR),
        (b"\x09\x00", PROTOCOL_ERROR),
        (b"\x89\x7e\x00\x7e" + b"x" * 126, PROTOCOL_ERROR),
        (b"\x88\x01x", PROTOCOL_ERROR),
        (b"\x88\x02\x03\xed", PROTOCOL_ERROR),
        (b"\x88\x02\x00\x00", PROTOCOL_ERROR),
        (b"\x88\x03\x03\xe8\xff", INVALID_DATA),
        (b"\x81\x7f" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"), MESSAGE_TOO_BIG),
    ],
    ids=[
        *(
            "reserved bits",
            "reserved opcode",
            "reserved control",
            "masked",
            "masked and longer",
            "no beginning",
        ),
        *("no end", "control in pieces", "long control", "half a code", "code 1005", "code 0"),
        *("reason", "too long"),
    ],
)
def test_what_the_protocol_forbids(stream: bytes, code: int) -> None:
    with pytest.raises(ProtocolBroken) as caught:
        FrameReader().take(stream)
    assert caught.value.code == code


def test_a_message_in_pieces_is_not_longer_either() -> None:
    reader = FrameReader()
    piece = b"x" * (MAX_MESSAGE_BYTES // 2)
    reader.take(sent(BINARY, piece, final=False))
    reader.take(sent(CONTINUATION, piece, final=False))
    with pytest.raises(ProtocolBroken) as caught:
        reader.take(sent(CONTINUATION, b"x"))
    assert caught.value.code == MESSAGE_TOO_BIG


# ---------------------------------------------------------------- the upgrade


@pytest.mark.parametrize(
    ("uri", "endpoint", "host"),
    [
        ("ws://h/acp", Endpoint(False, "h", 80, "/acp"), "h"),
        ("wss://h/acp?agent=a+b", Endpoint(True, "h", 443, "/acp?agent=a+b"), "h"),
        ("wss://h:80/acp", Endpoint(True, "h", 80, "/acp"), "h:80"),
        ("ws://[::1]:7433/acp", Endpoint(False, "::1", 7433, "/acp"), "[::1]:7433"),
        (
            "ws://bücher.example/ö%20?q=é",
            Endpoint(False, "xn--bcher-kva.example", 80, "/%C3%B6%20?q=%C3%A9"),
            None,
        ),
    ],
)
def test_endpoints(uri: str, endpoint: Endpoint, host: str | None) -> None:
    assert endpoint_of(uri) == endpoint
    assert endpoint.host_header == (host or endpoint.host)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("token", [None, "t0ken"])
def test_a_server_accepts_the_request(size: int, token: str | None) -> None:
    server, key = ServerProtocol(), new_key()
    server.receive_data(request_for(endpoint_of("ws://h:1/acp?x=1"), key, token))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    assert request.path == "/acp?x=1"
    assert request.headers["Host"] == "h:1"
    assert request.headers.get("Authorization") == (token and f"Bearer {token}")
    response = server.accept(request)
    assert response.status_code == 101
    server.send_response(response)
    server.send_text(b"hello")
    data = b"".join(server.data_to_send())
    end = data.index(b"\r\n\r\n") + 4
    for come in range(size, end, size):
        assert read_answer(data[:come], ended=False) is None
    answer = read_answer(data, ended=False)
    assert answer is not None
    check_answer(answer, key)
    assert FrameReader().take(answer.rest) == ([b"hello"], [])


ACCEPTED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455's own example


def checked(text: str) -> None:
    answer = read_answer(text.encode(), ended=False)
    assert answer is not None
    check_answer(answer, KEY)


def test_the_answer_to_a_request() -> None:
    checked(ACCEPTED)
    for old, new, why in (
        ("WebSocket\r", "h2c\r", "something else than a WebSocket"),
        ("keep-alive, Upgrade", "keep-alive", "something else than a WebSocket"),
        ("s3pP", "S3pP", "to another request"),
        ("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "", "to another request"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "which nobody asked for"),
    ):
        with pytest.raises(NoWebSocket, match=why):
            checked(ACCEPTED.replace(old, new))


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 403 X\r\nContent-Length: 2\r\n\r\nno", b"no"),
        (b"HTTP/1.0 502\r\n\r\nbad gateway", b"bad gateway"),
        (
            b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
            b"{}abc",
        ),
    ],
    ids=["length", "until the end", "chunked"],
)
def test_an_answer_with_a_body(data: bytes, body: bytes) -> None:
    for come in range(len(data)):
        assert read_answer(data[:come], ended=False) is None
    answer = read_answer(data, ended=True)
    assert answer is not None
    assert answer.body == body


@pytest.mark.parametrize(
    ("data", "ended"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", False),
        (b"", True),
        (b"HTTP/1.1 101 X\r\nUpgr", True),
        (b"HTTP/1.1 101 X\r\nno header\r\n\r\n", False),
        (b"HTTP/1.1 ok\r\n", False),
        (b"HTTP/1.1 101 X\r\n" + b"x: y\r\n" * 20_000, False),
    ],
    ids=["ssh", "nothing", "half", "no header", "no status", "endless"],
)
def test_no_answer(data: bytes, *, ended: bool) -> None:
    with pytest.raises(NoWebSocket):
        read_answer(data, ended=ended)


# ---------------------------------------------------------------- a link


class Server:
    """The other end of a link."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.protocol = open_server()

    def flush(self) -> None:
        self.socket.sendall(b"".join(self.protocol.data_to_send()))

    def hear(self) -> None:
        self.protocol.receive_data(self.socket.recv(65536))


@pytest.fixture
def ends() -> Iterator[tuple[Link, Server]]:
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
        ours.setblocking(False)
        yield Link(ours, sent(TEXT, b"early"), not_now=(BlockingIOError,), keep_alive=20.0), Server(theirs)


def test_a_link_says_and_hears(ends: tuple[Link, Server]) -> None:
    link, server = ends
    assert link.receive() == ()
    link.send([b"one", b"two"])
    server.hear()
    assert [event.data for event in server.protocol.events_received() if isinstance(event, Frame)] == [
        b"one",
        b"two",
    ]
    server.protocol.send_text(b"three")
    server.protocol.send_ping(b"?")
    server.flush()
    assert link.receive() == [b"early", b"three"]
    server.hear()
    assert server.protocol.events_received() == [Frame(Opcode.PONG, b"?")]
    assert link.unsent == 0


@pytest.mark.parametrize(("code", "our_fault"), [(1009, True), (1001, False)])
def test_what_came_before_a_goodbye_is_heard(
    ends: tuple[Link, Server], code: int, *, our_fault: bool
) -> None:
    link, server = ends
    server.protocol.send_text(b"last")
    server.protocol.send_close(code, "enough")
    server.flush()
    assert link.receive() == [b"early", b"last"]
    for ended in (link.look, link.receive, lambda: link.send([b"x"])):
        with pytest.raises(LinkLost, match="the relay closed the connection: enough") as caught:
            ended()
        assert caught.value.our_fault is our_fault
    server.hear()
    assert server.protocol.close_rcvd == Close(code, "")


def test_a_relay_that_breaks_the_protocol(ends: tuple[Link, Server]) -> None:
    link, server = ends
    server.socket.sendall(b"\xff\x00")
    with pytest.raises(LinkLost, match="breaks the protocol: a frame has bits"):
        link.receive()
    server.hear()
    assert server.protocol.close_rcvd == Close(PROTOCOL_ERROR, "")


def test_a_connection_that_is_cut(ends: tuple[Link, Server]) -> None:
    link, server = ends
    server.socket.close()
    with pytest.raises(LinkLost, match="was cut"):
        link.receive()
