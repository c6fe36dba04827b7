from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence

import anyio
import pytest

from relaykit.conversation.frame import Frame, Kind
from relaykit.errors import AgentGone, FrameTooLarge
from relaykit_acp import questions
from relaykit_acp.agent import AcpAgent
from relaykit_acp.settings import AcpSettings
from support.acp_agents import QUICK, echo, new_session, prompt, running, say, texts, until

pytestmark = pytest.mark.anyio


async def _raw(agent: AcpAgent, line: str) -> list[Frame]:
    """Have the agent write a line as it is, and return what became of it."""
    return [frame for frame in await say(agent, f"/raw {line}") if frame.kind is not Kind.TURN_END]


async def _everything(agent: AcpAgent) -> list[Frame]:
    frames: list[Frame] = []
    with anyio.fail_after(10), contextlib.suppress(anyio.EndOfStream):
        while True:
            frames += await agent.receive()
    return frames


async def test_a_turn() -> None:
    async with running() as agent:
        assert await say(agent, "hello", "t7") == [
            Frame(
                Kind.UPDATE,
                b'{"update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"hello"}}}',
                method="session/update",
            ),
            Frame(Kind.TURN_END, b'{"stopReason":"end_turn"}', "t7", "session/prompt"),
        ]


async def test_updates_arrive_in_order_and_in_batches() -> None:
    async with running() as agent:
        await agent.send(prompt("/stream 20000"))
        batches: list[Sequence[Frame]] = []
        with anyio.fail_after(30):
            while not batches or batches[-1][-1].kind is not Kind.TURN_END:
                batches.append(await agent.receive())
    said = texts([frame for batch in batches for frame in batch])
    assert [int(text.split()[0]) for text in said] == list(range(20000))
    assert len(batches) < 2000


async def test_a_question_is_answered_under_the_id_that_the_agent_gave() -> None:
    # The echo agent's first request has id 0, then 1, 2 …: our own requests had 1 and 2 already.
    async with running() as agent:
        refs = set()
        for turn in ("t1", "t2", "t3", "t4"):
            await agent.send(prompt("/ask", turn))
            question = (await until(Kind.REQUEST, agent))[-1]
            assert question.method == "session/request_permission"
            assert "sessionId" not in json.loads(question.body)
            refs.add(question.ref)
            answer = b'{"outcome":{"outcome":"selected","optionId":"yes"}}'
            await agent.send(Frame(Kind.DECISION, answer, question.ref))
            frames = await until(Kind.TURN_END, agent)
            assert texts(frames) == ["permission: yes"]
            assert frames[-1].ref == turn
        assert len(refs) == 4


async def test_refs_differ_between_agents_of_a_session() -> None:
    session = new_session()
    refs = []
    for _ in range(2):
        async with running(session=session) as agent:
            await agent.send(prompt("/ask"))
            refs.append((await until(Kind.REQUEST, agent))[-1].ref)
    assert refs[0] != refs[1]


@pytest.mark.parametrize("raw_id", ['"text"', "0", "-5", '"1"'])
async def test_ids_of_any_kind_find_back(raw_id: str) -> None:
    async with running() as agent:
        line = f'{{"id":{raw_id},"method":"session/request_permission","params":{{"options":[]}}}}'
        (question,) = await _raw(agent, line)
        assert (question.kind, question.body) == (Kind.REQUEST, b'{"options":[]}')
        assert agent._questions[question.ref] == raw_id.encode()


async def test_a_question_is_answered_once(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as agent:
        await agent.send(prompt("/ask"))
        question = (await until(Kind.REQUEST, agent))[-1]
        decision = questions.decline(question, cancelled=False)
        await agent.send(decision)
        await agent.send(decision)
        assert texts(await until(Kind.TURN_END, agent)) == ["permission: no"]
        assert texts(await say(agent, "still there")) == ["still there"]
    assert "its answer is dropped" in caplog.text


async def test_an_answer_may_be_an_error() -> None:
    async with running() as agent:
        await agent.send(prompt("/ask"))
        question = (await until(Kind.REQUEST, agent))[-1]
        error = b'{"code":-32000,"message":"no"}'
        await agent.send(Frame(Kind.DECISION, error, question.ref, failed=True))
        assert "-32000" in texts(await until(Kind.TURN_END, agent))[0]


async def test_declining_and_cancelling_reach_the_agent() -> None:
    async with running() as agent:
        for cancelled, said in ((False, "permission: no"), (True, "permission: cancelled")):
            await agent.send(prompt("/ask"))
            question = (await until(Kind.REQUEST, agent))[-1]
            await agent.send(questions.decline(question, cancelled=cancelled))
            assert texts(await until(Kind.TURN_END, agent)) == [said]
        for cancelled, action in ((False, "decline"), (True, "cancel")):
            await agent.send(prompt("/elicit"))
            question = (await until(Kind.REQUEST, agent))[-1]
            assert question.method == "elicitation/create"
            await agent.send(questions.decline(question, cancelled=cancelled))
            assert texts(await until(Kind.TURN_END, agent)) == [f'elicitation: {{"action": "{action}"}}']


async def test_the_agent_takes_a_question_back() -> None:
    async with running() as agent:
        (question,) = await _raw(agent, '{"id":"q","method":"session/request_permission","params":{}}')
        (news,) = await _raw(agent, '{"method":"$/cancel_request","params":{"requestId":"q"}}')
        assert (news.kind, news.method, news.ref) == (Kind.UPDATE, "$/cancel_request", question.ref)
        (other,) = await _raw(agent, '{"method":"$/cancel_request","params":{"requestId":0}}')
        assert other.ref == ""


async def test_a_running_turn_is_cancelled() -> None:
    async with running() as agent:
        await agent.send(prompt("/sleep 60"))
        await agent.send(Frame(Kind.CANCEL, method="session/cancel"))
        assert (await until(Kind.TURN_END, agent))[-1].body == b'{"stopReason":"cancelled"}'


async def test_a_call_has_its_result_also_during_a_turn() -> None:
    async with running() as agent:
        await agent.send(prompt("/sleep 60", "turn"))
        await agent.send(Frame(Kind.CALL, b'{"modeId":"shout"}', "call", "session/set_mode"))
        frames = await until(Kind.RESULT, agent)
        assert [frame.kind for frame in frames] == [Kind.UPDATE, Kind.RESULT]
        assert frames[-1] == Frame(Kind.RESULT, b"{}", "call", "session/set_mode")
        await agent.send(Frame(Kind.CALL, b'{"modeId":"nonsense"}', "call-2", "session/set_mode"))
        refused = (await until(Kind.RESULT, agent))[-1]
        assert refused.failed
        assert json.loads(refused.body)["code"] == -32602


async def test_a_call_of_the_connection_carries_no_session_id() -> None:
    async with running(echo("--ignore-eof")) as agent:
        await agent.send(Frame(Kind.CALL, b"", "call", "initialize"))
        result = (await until(Kind.RESULT, agent))[-1]
        assert json.loads(result.body)["protocolVersion"] == 1


@pytest.mark.parametrize("text", ["/fail", "/login"])
async def test_a_turn_that_fails(text: str) -> None:
    async with running() as agent:
        end = (await say(agent, text))[-1]
        assert end.failed
        assert json.loads(end.body)["code"] == {"/fail": -32603, "/login": -32000}[text]
        assert texts(await say(agent, "still there")) == ["still there"]


@pytest.mark.parametrize("method", ["no/such", "_vendor/thing", "fs/read_text_file", "terminal/create"])
async def test_what_is_not_offered_is_answered_at_once(method: str) -> None:
    async with running() as agent:
        frames = await say(agent, f"/unknown {method}")
        assert [frame.kind for frame in frames] == [Kind.UPDATE, Kind.TURN_END]
        assert texts(frames) == ["answered with -32601"]


async def test_updates_after_the_end_of_a_turn_are_kept() -> None:
    async with running() as agent:
        frames = await say(agent, "/late")
        if frames[-1].kind is Kind.TURN_END:
            frames += await until(Kind.UPDATE, agent)
        assert [frame.kind for frame in frames] == [Kind.TURN_END, Kind.UPDATE]
        assert texts(frames) == ["late"]


async def test_updates_before_the_session_come_first() -> None:
    async with running(echo("--early-update")) as agent:
        with anyio.fail_after(10):
            first = await agent.receive()
        assert texts(first) == ["early"]
        assert b"sessionId" not in first[0].body


@pytest.mark.parametrize(
    "body",
    [
        '{"update":{"sessionUpdate":"a_kind_of_tomorrow","n":1.50,"big":12345678901234567890123}}',
        '{ "_meta" : {"sessionId":"inner"} ,"update":{"x":[ 1,2 ],"é":"\\u00e9"},"new":null}',
        '{"update":{"text":"\\ud83d\\ude00 \\"sessionId\\":\\"x\\","}}',
    ],
)
@pytest.mark.parametrize("method", ["session/update", "_vendor/news", "elicitation/complete"])
async def test_what_we_do_not_know_survives_byte_for_byte(body: str, method: str) -> None:
    async with running() as agent:
        for params in (
            body.replace("{", '{"sessionId":"$SESSION",', 1),
            body[:-1] + ',"sessionId":"$SESSION"}',
            body,
        ):
            (frame,) = await _raw(agent, f'{{"method":"{method}","params":{params}}}')
            assert frame == Frame(Kind.UPDATE, body.encode(), method=method)


async def test_unknown_fields_of_a_prompt_reach_the_agent() -> None:
    async with running() as agent:
        body = b'{"prompt":[{"type":"text","text":"a"},\n{"type":"hologram","x":1}],"_meta":{"y":2}}'
        await agent.send(Frame(Kind.PROMPT, body, "t"))
        assert texts(await until(Kind.TURN_END, agent)) == ["a[hologram]"]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{}\n{"method":"x"}'])
async def test_a_body_cannot_break_out_of_its_frame(body: bytes) -> None:
    async with running() as agent:
        for kind in (Kind.PROMPT, Kind.CALL):
            with pytest.raises(ValueError, match="body"):
                await agent.send(Frame(kind, body, "t", "session/set_mode"))
        with pytest.raises(ValueError, match="does not go to an agent"):
            await agent.send(Frame(Kind.NOTICE))
        assert texts(await say(agent, "unharmed")) == ["unharmed"]


async def test_what_is_no_message_is_skipped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with running(echo("--banner")) as agent:
        assert texts(await say(agent, "/banner")) == []
        for line in (
            '{"method":"mellon","params":NaN}',
            '{"id":12345,"result":{"said":"mellon"}}',
            "3",
            '{"jsonrpc":"mellon"}',
        ):
            assert await _raw(agent, line) == []
        assert texts(await say(agent, "fine")) == ["fine"]
    assert caplog.text.count("Welcome to echo") == 2
    assert caplog.text.count("skipped a line") == 6
    assert "39 bytes that were meant as a message" in caplog.text
    assert "mellon" not in caplog.text  # it may be what was said


async def test_skipped_lines_are_logged_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as agent:
        assert texts(await say(agent, "/flood 0.5 garbage")) == ["flooded"]
    assert caplog.text.count("skipped a line") == 100
    assert caplog.text.count("no more skipped lines are logged") == 1


@pytest.mark.parametrize("line", ['[{"id":1,"method":"m"}]', '{"id":"x","method":3}'])
async def test_a_bad_request_is_answered_and_harms_nobody(line: str) -> None:
    async with running() as agent:
        assert await _raw(agent, line) == []
        assert texts(await say(agent, "fine")) == ["fine"]


async def test_a_garbled_answer_fails_its_turn() -> None:
    async with running() as agent:
        number = agent._next_id + 1
        await agent.send(prompt(f'/raw {{"id":{number},"result":{{"cost":NaN}}}}', "t"))
        end = (await until(Kind.TURN_END, agent))[-1]
        assert (end.ref, end.failed) == ("t", True)
        assert "garbled" in json.loads(end.body)["message"]


async def test_half_an_emoji_does_not_lose_the_update() -> None:
    async with running() as agent:
        line = '{"method":"session/update","params":{"sessionId":"$SESSION","t":"\\\\ud83d"}}'
        (frame,) = await _raw(agent, line.replace("\\\\", "\\"))
        assert frame.body == b'{"t":"\\ufffd"}'


async def test_a_flood_of_stderr_does_not_hang() -> None:
    async with running() as agent:
        assert texts(await say(agent, "/flood 2 stderr")) == ["flooded"]
        assert len(agent.last_words.splitlines()) == 20


async def test_a_message_over_the_limit_ends_it_after_what_came_before() -> None:
    settings = AcpSettings(eof_grace=QUICK.eof_grace, term_grace=QUICK.term_grace, max_frame_bytes=100_000)
    async with running(settings=settings) as agent:
        assert len(texts(await say(agent, "/huge 90000"))[0]) == 90000
        await agent.send(prompt("/huge 200000"))
        for _ in range(2):
            with anyio.fail_after(10), pytest.raises(FrameTooLarge) as caught:
                await agent.receive()
            assert caught.value.limit == 100_000


async def test_long_messages_pass_both_ways() -> None:
    async with running() as agent:
        text = "é" * 3_000_000
        assert texts(await say(agent, text)) == [text]


# ---------------------------------------------------------------- the end


async def test_open_calls_fail_when_the_agent_dies_and_open_turns_are_left_to_who_prompted() -> None:
    async with running() as agent:
        await agent.send(prompt("/sleep 60", "turn"))
        await agent.send(prompt("/crash 3", "waiting"))
        await agent.send(Frame(Kind.CALL, b'{"prompt":[]}', "call", "session/prompt"))  # it waits its turn
        await agent.send(Frame(Kind.CANCEL, method="session/cancel"))
        frames = await _everything(agent)
        ends = {frame.ref: frame for frame in frames if frame.kind in {Kind.TURN_END, Kind.RESULT}}
        assert not ends["turn"].failed
        assert "waiting" not in ends
        assert ends["call"].kind is Kind.RESULT
        assert ends["call"].failed
        error = json.loads(ends["call"].body)
        assert error["code"] == -32603
        assert "exited with 3" in error["message"]
        assert agent.farewell() == "agent 'echo': it exited with 3; its last words were:\necho: told to crash"
        with anyio.fail_after(10), pytest.raises(AgentGone) as gone:
            await agent.send(prompt("anybody?"))
        assert gone.value.exit_code == 3
        with pytest.raises(anyio.EndOfStream):
            await agent.receive()


async def test_farewell_names_the_signal() -> None:
    async with running(echo("--ignore-signals")) as agent:
        assert agent.farewell() == "agent 'echo': it is running"
        await agent.aclose()
        assert agent.farewell() == "agent 'echo': it was ended by SIGKILL"


async def test_a_dead_agent_takes_nothing_also_before_anybody_read_its_end() -> None:
    async with running() as agent:
        await agent.send(prompt("/crash"))
        with anyio.fail_after(10):
            await agent._process.exited.wait()
        for frame in (prompt("x"), prompt("x" * 100_000), Frame(Kind.CANCEL)):
            with pytest.raises(AgentGone):
                await agent.send(frame)


async def test_a_grandchild_that_holds_stdout_does_not_delay_the_end() -> None:
    async with running() as agent:
        assert texts(await say(agent, "/children 1 setsid"))[0].startswith("children: ")
        await agent.send(prompt("/crash"))
        with anyio.fail_after(10):
            await agent._process.exited.wait()
        with anyio.fail_after(1), pytest.raises(anyio.EndOfStream):
            await agent.receive()


async def test_an_agent_that_closes_its_output_has_ended() -> None:
    async with running() as agent:
        await agent.send(prompt("/close-stdout"))
        assert await _everything(agent) == []
        assert "it closed its output" in agent.farewell()
        with pytest.raises(AgentGone):
            await agent.send(prompt("x"))


async def test_what_was_said_before_the_exit_is_heard_by_a_slow_reader() -> None:
    async with running() as agent:
        await agent.send(prompt("/stream 300", "t1"))
        await agent.send(prompt("/crash", "t2"))
        with anyio.fail_after(10):
            await agent._process.exited.wait()
        await anyio.sleep(0.3)  # a reader that has other things to do, for longer than any grace
        assert len(texts(await _everything(agent))) == 300


# ---------------------------------------------------------------- cancellation


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with running() as agent:
        for _ in range(20):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await agent.receive()
        await agent.send(prompt("/stream 2000"))
        frames: list[Frame] = []
        with anyio.fail_after(30):
            while not any(frame.kind is Kind.TURN_END for frame in frames):
                with anyio.move_on_after(0.0005):
                    frames += await agent.receive()
        assert [int(text.split()[0]) for text in texts(frames)] == list(range(2000))


async def test_a_cancelled_sender_cuts_no_frame() -> None:
    async with running() as agent:
        await agent.send(prompt("/deaf 0.5", "first"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.send, prompt("x" * 2_000_000, "long"))
            await anyio.wait_all_tasks_blocked()  # in the middle of the long line
            tasks.cancel_scope.cancel()
        await agent.send(prompt("last", "last"))
        frames: list[Frame] = []
        with anyio.fail_after(30):
            while not frames or frames[-1].ref != "last":
                frames += await agent.receive()
        assert texts(frames) == ["x" * 2_000_000, "last"]


async def test_a_sender_to_a_stuck_agent_can_be_cancelled_and_is_ended_by_aclose() -> None:
    async with running() as agent:
        await agent.send(prompt("/deaf"))
        with anyio.move_on_after(0.05) as scope:
            await agent.send(prompt("x" * 2_000_000, "t2"))
        assert scope.cancelled_caught
        gone: list[str] = []

        async def send(ref: str) -> None:
            with pytest.raises(AgentGone):
                await agent.send(prompt("x" * 2_000_000, ref))
            gone.append(ref)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for ref in ("a", "b"):
                    tasks.start_soon(send, ref)
                await anyio.wait_all_tasks_blocked()
                await agent.aclose()
        assert sorted(gone) == ["a", "b"]


async def test_concurrent_senders_do_not_mix() -> None:
    async with running() as agent:
        sizes = [10, 100_000, 50, 300_000, 5000, 4000]
        async with anyio.create_task_group() as tasks:
            for number, size in enumerate(sizes):
                tasks.start_soon(agent.send, prompt(str(number) * size, f"t{number}"))
            frames: list[Frame] = []
            with anyio.fail_after(30):
                while sum(frame.kind is Kind.TURN_END for frame in frames) < len(sizes):
                    frames += await agent.receive()
        assert sorted(texts(frames)) == sorted(str(number) * size for number, size in enumerate(sizes))


async def test_unknown_requests_of_an_agent_that_does_not_read_stop_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with running() as agent:
        request = '{"id":1,"method":"fs/read_text_file","params":{}}'
        for _ in range(3):
            await _raw(agent, "\\n".join([request] * 5).replace("\\n", "\n"))
        await agent.send(prompt(f"/raw {request}\n" * 3000))
        await agent.send(prompt("/deaf", "deaf"))
        with anyio.fail_after(10):
            assert any(frame.kind is Kind.TURN_END for frame in await until(Kind.TURN_END, agent))
