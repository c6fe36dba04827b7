"""Traces of real sessions, as a collector receives them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from relaykit.conversation import Entry, Kind
from relaykit.errors import PluginError
from relaykit.hooks.registration import Surroundings, Verdict
from relaykit.ids import trace_id
from relaykit_otel import OtelPlugin, tracing
from relaykit_otel.checks import checks
from relaykit_otel.environment import exporters
from support import remembering_agent
from support.relays import active_session, echo_with, ended, following, running_relay

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Collector:
    """A collector of OTLP over HTTP on a free port.

    :ivar late: it answers only when this is set.
    """

    url: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    late: threading.Event = field(default_factory=threading.Event)

    def spans(self) -> list[Span]:
        """Return what has come."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting(*, at_once: bool = True) -> Iterator[Collector]:
    collector = Collector()
    if at_once:
        collector.late.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            collector.late.wait(30)
            collector.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.late.set()
            server.shutdown()
            thread.join(10)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield collector


def attributes(span: Span) -> Mapping[str, Any]:
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in span.attributes
    }


async def test_a_session_is_a_trace(collector: Collector, tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("mellon mellon", "t1")
        await client.until_turn_end("t1")
        await client.say("/ask", "t2")
        asked = await client.until_asked()
        await client.answer(asked.frame.ref)
        await client.until_turn_end("t2")
        await client.say("/fail", "t3")
        await client.until_turn_end("t3")
        entries = {
            (entry.frame.kind, entry.frame.ref): entry
            for entry in client.entries
            if entry.frame.ref.startswith("t")
        }
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        await ended(relay, client.session_id)
    spans = collector.spans()
    everything = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"mellon" not in everything
    assert {span.trace_id.hex() for span in spans} == {trace_id(client.session_id)}
    (life,), (spawn,), (question,) = (named(spans, name) for name in ("session echo", "spawn", "question"))
    turns = {attributes(span)["relaykit.turn.id"]: span for span in named(spans, "turn")}
    assert len(spans) == 6
    assert life.parent_span_id == b""
    assert {span.parent_span_id for span in (spawn, *turns.values())} == {life.span_id}
    assert question.parent_span_id == turns["t2"].span_id
    assert life.start_time_unix_nano <= spawn.start_time_unix_nano <= spawn.end_time_unix_nano
    assert turns["t3"].end_time_unix_nano <= life.end_time_unix_nano
    for turn, span in turns.items():
        assert span.start_time_unix_nano == nanoseconds(entries[Kind.PROMPT, turn])
        assert span.end_time_unix_nano == nanoseconds(entries[Kind.TURN_END, turn])
    assert [event.name for event in turns["t1"].events] == ["first update"]
    assert attributes(turns["t1"])["relaykit.turn.stop_reason"] == "end_turn"
    assert [span.status.code for span in turns.values()] == [0, 0, Status.STATUS_CODE_ERROR]
    assert attributes(question).items() >= {
        ("relaykit.question.method", "session/request_permission"),
        ("relaykit.question.outcome", "answered"),
    }
    assert attributes(life) == {
        "relaykit.session.id": client.session_id,
        "relaykit.session.role": "auth",
        "relaykit.session.agent": "echo",
        "relaykit.session.project": "default",
        "relaykit.session.cause": "REQUESTED",
        "relaykit.session.reason": "enough",
        "relaykit.session.messages": attributes(life)["relaykit.session.messages"],
    }
    assert attributes(life)["relaykit.session.messages"] > 6
    (resource,) = {request.resource_spans[0].resource.SerializeToString() for request in collector.requests}
    assert b"relaykit.node" in resource
    assert b"service.name" in resource


async def test_a_clients_trace_goes_on_and_reaches_the_agent(collector: Collector, tmp_path: Path) -> None:
    meta = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        body = json.dumps({"prompt": [{"type": "text", "text": "hello"}], "_meta": meta}).encode()
        await relay.prompt(client.session_id, body, client_id=client.id, turn="t1")
        prompt = await client.until(lambda entry: entry.frame.kind is Kind.PROMPT)
        assert json.loads(prompt.frame.body)["_meta"] == meta  # which is what goes to the agent
        await client.until_turn_end("t1")
    (turn,) = named(collector.spans(), "turn")
    assert (turn.trace_id.hex(), turn.parent_span_id.hex(), turn.trace_state) == (TRACE, PARENT, "a=b")
    assert [link.trace_id.hex() for link in turn.links] == [trace_id(client.session_id)]


@pytest.mark.parametrize(
    "meta",
    [{"traceparent": "00-zz-1-01"}, {"traceparent": 7}, "traceparent", {"other": {"traceparent": "x"}}],
)
async def test_what_is_no_trace_is_left_alone(collector: Collector, tmp_path: Path, meta: object) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        body = json.dumps({"prompt": [{"type": "text", "text": "hello"}], "_meta": meta}).encode()
        await relay.prompt(client.session_id, body, client_id=client.id, turn="t1")
        await client.until_turn_end("t1")
    (turn,) = named(collector.spans(), "turn")
    assert turn.trace_id.hex() == trace_id(client.session_id)


async def test_an_agent_that_does_not_start_is_an_error(collector: Collector, tmp_path: Path) -> None:
    async with running_relay(tmp_path, toml=echo_with("--exit", "3")) as relay:
        session = await relay.create("auth", agent="flagged")
        await ended(relay, session.id)
    spans = collector.spans()
    assert {span.name: span.status.code for span in spans} == {
        "spawn": Status.STATUS_CODE_ERROR,
        "session flagged": Status.STATUS_CODE_ERROR,
    }
    assert "exit" in named(spans, "spawn")[0].status.message


# An agent that says what it was asked where nobody looks for it: in an error, and as it crashes.
TELLS_ALL = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    said = {"result": {"protocolVersion": 1, "agentCapabilities": {}, "sessionId": "s"}}
    if asked["method"] == "session/prompt":
        words = asked["params"]["prompt"][0]["text"]
        if words.startswith("crash"):
            sys.exit(f"asked for {words}")
        said = {"error": {"code": -32603, "message": f"asked for {words}"}}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}), flush=True)
"""


async def test_nothing_of_what_was_said_is_in_what_went_wrong(collector: Collector, tmp_path: Path) -> None:
    program = tmp_path / "tells_all.py"
    program.write_text(TELLS_ALL)
    toml = f"[agents.tells_all]\ncommand = {json.dumps([sys.executable, str(program)])}\n"
    async with (
        running_relay(tmp_path, toml=toml, RELAY__ON_CRASH="end") as relay,
        active_session(relay, agent="tells_all") as client,
    ):
        await client.say("fail mellon", "t1")
        assert b"mellon" in (await client.until_turn_end("t1")).frame.body
        await client.say("crash mellon", "t2")
        assert b"mellon" in (await client.until_turn_end("t2")).frame.body
        await ended(relay, client.session_id)
    assert b"mellon" not in b"".join(request.SerializeToString() for request in collector.requests)
    for turn in named(collector.spans(), "turn"):
        assert turn.status.code == Status.STATUS_CODE_ERROR
        assert attributes(turn)["relaykit.turn.error_code"] == -32603
    (life,) = named(collector.spans(), "session tells_all")
    assert life.status.message == "agent 'tells_all': it exited with 1"


async def test_a_session_goes_on_in_its_trace_after_a_restart(collector: Collector, tmp_path: Path) -> None:
    remembering = [sys.executable, remembering_agent.__file__, str(tmp_path)]
    toml = f"[agents.remembering]\ncommand = {json.dumps(remembering)}\n"
    async with (
        running_relay(tmp_path, toml=toml, RELAY__STORAGE="sqlite") as relay,
        active_session(relay, agent="remembering") as client,
    ):
        await client.say("hello", "t1")
        await client.until_turn_end("t1")
    assert named(collector.spans(), "session remembering") == []
    async with running_relay(tmp_path, toml=toml, RELAY__STORAGE="sqlite") as relay:
        async with following(relay, client.session_id) as again:
            await again.say("hello", "t2")
            await again.until_turn_end("t2")
        await relay.stop(client.session_id, "enough")
        await ended(relay, client.session_id)
    spans = collector.spans()
    (life,) = named(spans, "session remembering")
    assert {span.trace_id.hex() for span in spans} == {trace_id(client.session_id)}
    assert {span.parent_span_id for span in named(spans, "turn")} == {life.span_id}
    assert len(named(spans, "turn")) == 2


async def test_what_is_not_sampled_is_not_sent(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    await _one_turn(tmp_path)
    assert collector.spans() == []


@pytest.mark.parametrize("how", ["gone", "hangs"])
async def test_a_collector_that_does_not_answer_harms_no_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(tracing, "_LAST_CALL", 0.2)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with collecting(at_once=False) as collector:
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1" if how == "gone" else collector.url
        )
        with anyio.fail_after(20):
            await _one_turn(tmp_path)


async def _one_turn(directory: Path) -> None:
    async with running_relay(directory) as relay, active_session(relay) as client:
        await client.say("hello", "t1")
        await client.until_turn_end("t1")


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "TRUE"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
    ],
)
def test_the_standard_variables_say_where_traces_go(environ: dict[str, str], expected: list[str]) -> None:
    assert exporters(environ) == expected
    hooks = {name for name in dir(OtelPlugin(environ)) if name.startswith("relaykit_on_")}
    assert bool(hooks) == bool(expected)


def test_nothing_is_imported_when_nothing_is_configured() -> None:
    look = (
        "import sys, relaykit_otel; from relaykit.hooks.registration import Check; p = relaykit_otel.OtelPlugin({});"
        "print(sorted(m for m in sys.modules if m.startswith('opentelemetry')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"


async def test_an_exporter_that_is_not_installed_is_an_error_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nonsense")
    with pytest.raises(
        PluginError, match=r"there is no exporter 'nonsense' of traces; installed are .*console"
    ):
        async with running_relay(tmp_path):
            pass


async def test_a_variable_that_the_sdk_does_not_take_is_an_error_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(PluginError, match="the exporter 'console' cannot be made: max_queue_size must be"):
        async with running_relay(tmp_path):
            pass


@pytest.mark.parametrize(
    ("environ", "verdict", "said"),
    [
        ({}, Verdict.OK, "no traces: neither"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:hush@collector:4318/x?key=hush"},
            Verdict.OK,
            "traces go to otlp_proto_http at collector",
        ),
        ({"OTEL_TRACES_EXPORTER": "nonsense"}, Verdict.TROUBLE, "there is no exporter 'nonsense'"),
    ],
)
async def test_doctor_says_where_traces_go(environ: dict[str, str], verdict: Verdict, said: str) -> None:
    (check,) = checks("otel", environ)
    (finding,) = await check.look(Surroundings(running=False, sessions={}, workspace="worktree"))
    assert finding.verdict is verdict
    assert said in finding.what
    assert "hush" not in finding.what


def named(spans: Sequence[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def nanoseconds(entry: Entry) -> int:
    return (entry.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
