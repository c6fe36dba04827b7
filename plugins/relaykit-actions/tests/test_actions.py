"""Hooks in the settings of real relays, with real programs and a real receiver; and the queues in between."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from anyio import CapacityLimiter

from relaykit.hooks import hookimpl
from relaykit.hooks.events import AccessRefused
from relaykit.relay import Relay, wakes
from relaykit.relay.access import Access
from relaykit.session import Cleaner, CleanerResult, Handle, Phase, Session
from relaykit_actions.actions import Actions, Hook
from relaykit_actions.errors import ActionFailed
from relaykit_actions.happenings import EVENTS, Happening
from relaykit_actions.settings import ActionsSettings, HookSettings
from support.plugin_sites import RecordingMeter
from support.relays import PATIENCE, acting_relay, active_session, ended, following, permission, prompt
from support.sleepers import REMEMBERING, House, until
from support.webhook_receiver import Answer, Posted, Receiver, receiving

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NIGHT = {"asleep", "crashed", "awake"}
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class FailingCleaner:
    """A plugin whose cleaner fails."""

    name = "failing"
    phase = Phase.AFTER

    async def clean(self, _session: Session, _handle: Handle | None, /) -> CleanerResult:
        raise OSError("no room")

    @hookimpl
    def relaykit_register_cleaners(self) -> Sequence[Cleaner]:
        return [self]


def hooks(receiver: Receiver, *events: str, **more: str) -> str:
    """Return a hook that posts these events; `more` are values as TOML has them."""
    lines = [f"{key} = {value}" for key, value in more.items()]
    return "\n".join(
        [
            "[[hooks]]",
            f"on = {json.dumps(events)}",
            f'post = "{receiver.url}"',
            "allow_private = true",
            *lines,
            "",
        ]
    )


def types(posted: Sequence[Posted]) -> list[str]:
    return [each.said["type"] for each in posted]


async def test_a_sessions_life_as_a_receiver_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with receiving() as receiver, receiving() as elsewhere:
        toml = hooks(receiver, *EVENTS, secret='"HOOK_SECRET"')
        toml += hooks(
            elsewhere, "attached", "turn_ended", "cleaned", role='"a?th"', agent='"echo"', project='"default"'
        )
        toml += hooks(elsewhere, "cleaned", cause='["IDLE", "AGENT_EXITED"]')
        async with acting_relay(
            tmp_path, toml=toml, plugins={"failing": FailingCleaner()}, RELAY__CLEANERS='["failing"]'
        ) as relay:
            phone = relay.restricted_to(Access(), name="phone")
            session = await phone.create("auth", agent="echo")
            async with (
                following(relay, session.id) as client,
                phone.attach(session.id, client_id="c9", protocol="acp"),
            ):
                await client.until_notice("active")
                await phone.prompt(session.id, prompt("/ask mellon"), client_id="c9", turn="t1")
                asked = await client.until_asked()
                await phone.answer(session.id, asked.frame.ref, permission("yes"), client_id="c9")
                await client.until_turn_end("t1")
                await phone.call(
                    session.id, "session/set_mode", b'{"modeId":"mellon"}', client_id="c9", ref="r1"
                )
                await phone.stop(session.id, "enough")
            await ended(relay, session.id)
            await relay.tell_refused(
                AccessRefused(where="/acp", address="::1", status=401, reason="no token", at=NOW)
            )
        # The relay has ended: what was to be done was done.
    for posted in receiver.got:
        posted.verify(SECRET)
        assert set(posted.said["data"]) == set(EVENTS[posted.said["type"]].fields)
    assert Counter(types(receiver.got)) == {
        event: 2 if "tached" in event else 1 for event in EVENTS.keys() - NIGHT
    }
    # The relay tells of states and of the talk side by side, each in order.
    states = ["created", "spawning", "active", "terminating", "cleanup_failed", "cleaned"]
    talk = ["turn_started", "question", "answered", "turn_ended", "call"]
    for part in (states, talk):
        assert [event for event in types(receiver.got) if event in part] == part
    assert Counter(types(elsewhere.got)) == {"attached": 2, "turn_ended": 1, "cleaned": 1}
    facts = {posted.said["type"]: posted.said["data"] for posted in receiver.got}
    own = {
        "session_id": session.id,
        "agent_id": "auth",
        "agent": "echo",
        "project": "default",
        "owner": "local",
    }
    assert facts["active"] == {**own, "worktree_dir": str(tmp_path / "project")}
    assert facts["question"].items() >= {"method": "session/request_permission", "tool_kind": "other"}.items()
    assert facts["question"]["tool"]
    assert facts["answered"].items() >= {"by": "phone", "client_id": "c9", "outcome": "answered"}.items()
    assert facts["turn_ended"].items() >= {"turn": "t1", "outcome": "done"}.items()
    assert facts["cleaned"].items() >= {"cause": "REQUESTED", "reason": "enough"}.items()
    assert facts["cleanup_failed"].items() >= {"cleaner": "failing", "detail": "OSError: no room"}.items()
    assert facts["refused"] == {"where": "/acp", "address": "::1", "status": 401, "reason": "no token"}
    everything = b"".join(posted.body + str(posted.headers).encode() for posted in receiver.got)
    assert b"mellon" not in everything
    for secret in (SECRET, SECRET.removeprefix("whsec_")):
        assert secret.encode() not in everything
        assert secret not in caplog.text


async def test_sleep_crashes_and_waking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "_LONGEST_PAUSE", 0.01)
    with receiving() as receiver:
        toml = hooks(receiver, *NIGHT, agent=f'"{REMEMBERING}"', role='"auth"')
        disabled = '["audit", "gateway", "prometheus"]'
        async with (
            House(tmp_path).relay(toml=toml, RELAY__DISABLED=disabled) as relay,
            active_session(relay, agent=REMEMBERING) as client,
        ):
            await relay.live(client.session_id).fall_asleep("it is late")
            await client.say("/crash 3", "t1")  # which wakes it
            await client.until_turn_end("t1")
            await client.say("hello", "t2")
            await client.until_turn_end("t2")
            await relay.stop(client.session_id, "enough")
            await client.until_the_end()
    assert types(receiver.got) == ["asleep", "awake", "crashed", "awake"]
    data = [posted.said["data"] for posted in receiver.got]
    assert [set(facts) for facts in data] == [set(EVENTS[event].fields) for event in types(receiver.got)]
    assert (data[0]["agent_id"], data[0]["reason"]) == ("auth", "it is late")
    assert "it exited with 3" in data[2]["reason"]


async def test_programs_run_and_a_failure_is_logged_with_their_last_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIVEN", "mellon")
    monkeypatch.setenv("KEPT", "mellon")
    toml = f"""
    [[hooks]]
    on = ["active"]
    run = ["sh", "-c", "cat > {tmp_path}/said; echo \\"$1,$GIVEN,$KEPT\\" > {tmp_path}/got", "-", "to {{agent_id}}"]
    env = ["GIVEN"]

    [[hooks]]
    on = ["active"]
    run = ["sh", "-c", "echo no bell >&2; exit 4"]
    """
    async with acting_relay(tmp_path, toml=toml) as relay, active_session(relay) as client:
        session_id = client.session_id
    assert (tmp_path / "got").read_text() == "to auth,mellon,\n"
    assert json.loads((tmp_path / "said").read_text())["data"]["session_id"] == session_id
    assert (
        f"hooks[2] (run sh): active of session '{session_id}': it ended with 4; it said last:\nno bell"
        in caplog.text
    )


async def test_a_receiver_that_hangs_harms_no_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as receiver:
        receiver.open.clear()
        toml = f"[plugins.actions]\nshutdown_timeout = 0.1\n{hooks(receiver, 'created', 'turn_ended', 'cleaned')}"
        with anyio.fail_after(PATIENCE):
            async with acting_relay(tmp_path, toml=toml) as relay, active_session(relay) as client:
                await client.say("hello", "t1")
                await client.until_turn_end("t1")
                await receiver.until_got(1)
                await relay.stop(client.session_id, "enough")
                await ended(relay, client.session_id)
    assert types(receiver.got) == ["created"]
    assert "hooks[1] (post to 127.0.0.1): the relay ends, and 3 are not done" in caplog.text
    assert "/hook" not in caplog.text  # the path may be a secret


async def test_what_the_relays_end_brings_is_posted(tmp_path: Path) -> None:
    with receiving(Answer(500)) as receiver:
        async with (
            acting_relay(tmp_path, toml=hooks(receiver, "terminating", "cleaned", role='"*"')) as relay,
            active_session(relay),
        ):
            pass
    assert types(receiver.got) == ["terminating", "terminating", "cleaned"]  # the first was answered with 500
    assert receiver.got[-1].said["data"]["cause"] == "SHUTDOWN"


# ---------------------------------------------------------------- an example


@pytest.mark.skipif(shutil.which("curl") is None, reason="SKIPPED: there is no curl, which the example runs")
async def test_the_example_rings_when_an_agent_needs_somebody_or_has_finished(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "examples" / "notify_phone.toml"
    toml = await anyio.Path(example).read_text()
    with receiving() as receiver:
        toml = toml.replace("https://ntfy.sh/", f"http://127.0.0.1:{receiver.port}/")
        toml += '\n[relay]\non_crash = "end"\n'
        async with acting_relay(tmp_path, toml=toml) as relay, active_session(relay) as client:
            await client.say("/ask mellon", "t1")
            asked = await client.until_asked()
            await receiver.until_got(1)
            await client.answer(asked.frame.ref)
            await client.until_turn_end("t1")
            await receiver.until_got(2)
            await client.say("/crash", "t2")
            await ended(relay, client.session_id)
    rings = [(posted.headers["title"], posted.body.decode()) for posted in receiver.got]
    assert rings[0][0] == "auth needs you"
    assert rings[0][1].startswith("It wants to: ")
    assert rings[1] == ("auth has finished", "Its turn is over: done")
    last = [("auth has failed", "Why: AGENT_EXITED"), ("auth has finished", "Its turn is over: interrupted")]
    assert sorted(rings[2:]) == last  # they are of two hooks
    assert "mellon" not in str(rings)


# ---------------------------------------------------------------- queues


class Work:
    """An action that waits to be let go, and remembers what it did."""

    def __init__(self, *failing: str) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.at_once = 0
        self.go = anyio.Event()
        self._failing = failing
        self._running = 0

    async def do(self, happening: Happening, slots: CapacityLimiter) -> None:
        name = str(happening.facts["turn"])
        async with slots:
            self.begun.append(name)
            self._running += 1
            self.at_once = max(self.at_once, self._running)
            await self.go.wait()
            self._running -= 1
            self.done.append(name)
        if name in self._failing:
            raise ActionFailed("no") if name != "bug" else RuntimeError("a bug")


def turn(session: str, name: str) -> Happening:
    return Happening("turn_ended", NOW, {"session_id": session, "turn": name})


def hook(work: Work, meter: RecordingMeter, **settings: Any) -> Hook:
    table = HookSettings(on=("turn_ended",), run=("true",))
    return Hook(table, work, settings=ActionsSettings(**settings), meter=meter)


@asynccontextmanager
async def at_work(*made: Hook, shutdown_timeout: float = PATIENCE) -> AsyncIterator[Actions]:
    actions = Actions(made, shutdown_timeout=shutdown_timeout)
    async with actions.open(cast(Relay, None)):
        yield actions


def counted(meter: RecordingMeter) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for name, amount, labels in meter.counted:
        assert (name, labels["kind"]) == ("actions", "run")
        found[labels["outcome"]] += int(amount)
    return {outcome: amount for outcome, amount in found.items() if amount}


async def test_sessions_go_side_by_side_and_each_in_order(caplog: pytest.LogCaptureFixture) -> None:
    work, meter = Work("b2", "bug"), RecordingMeter()
    made = hook(work, meter, concurrency=2)
    made.offer(turn("a", "a1"))  # before it begins, as while a relay takes over what another has left
    async with at_work(made) as actions:
        for name in ("a2", "b1", "b2", "bug", "a3", "b3", "d1"):
            actions.happened(turn("c" if name == "bug" else name[0], name))
        await until(lambda: len(work.begun) == 2)
        await anyio.wait_all_tasks_blocked()
        assert len(work.begun) == 2
        assert set(work.begun) < {"a1", "b1", "bug", "d1"}
        work.go.set()
    for session in ("a", "b"):
        names = [name for name in work.done if name[0] == session and name != "bug"]
        assert names == [f"{session}{number}" for number in (1, 2, 3)]
    assert len(work.done) == 8
    assert work.at_once == 2
    assert counted(meter) == {"done": 6, "failed": 2}
    assert "RuntimeError: a bug" in caplog.text


async def test_what_there_is_no_room_for_is_dropped_said_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work, meter = Work(), RecordingMeter()
    made = hook(work, meter, max_pending=3)
    async with at_work(made):
        for number in range(10):
            made.offer(turn("a", str(number)))
        assert caplog.text.count("has no room for more than 3: what comes now is dropped") == 1
        work.go.set()
        await until(lambda: len(work.done) == 3)
        made.offer(turn("a", "late"))
        assert "takes what comes again; it has dropped 7" in caplog.text
    assert work.done == ["0", "1", "2", "late"]
    assert counted(meter) == {"done": 4, "dropped": 7}


async def test_what_is_not_done_when_the_relay_has_ended_is_said_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work, meter = Work(), RecordingMeter()
    made = hook(work, meter)
    with anyio.fail_after(PATIENCE):
        async with at_work(made, shutdown_timeout=0.01):
            for number in range(3):
                made.offer(turn("a", str(number)))
    assert "(run true): the relay ends, and 3 are not done" in caplog.text
    made.offer(turn("a", "late"))
    assert "has ended with the relay: what comes now is dropped" in caplog.text
    assert (work.done, counted(meter)) == ([], {"dropped": 4})


def test_a_hook_is_for_what_has_everything_that_it_names() -> None:
    def matches(event: str, facts: Mapping[str, str], **table: Any) -> bool:
        made = HookSettings(**{"on": ("cleaned",), "run": ("true",), **table})
        return made.matches(Happening(event, NOW, facts))

    facts = {"agent_id": "auth-2", "agent": "echo", "project": "shop", "cause": "IDLE"}
    assert matches("cleaned", facts)
    assert not matches("active", facts)
    assert matches("cleaned", facts, agent="echo", role="auth-*", project="shop", cause=("LIMIT", "IDLE"))
    assert not matches("cleaned", facts, agent="claude")
    assert not matches("cleaned", facts, role="auth")
    assert not matches("cleaned", facts, role="AUTH-*")
    assert not matches("cleaned", facts, project="sho")
    assert not matches("cleaned", facts, cause=("LIMIT",))
