"""Who did what, as it is written down."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.errors import PluginError, SettingsError
from relaykit.hooks.events import AccessRefused
from relaykit.relay import Relay
from relaykit.relay.access import Access
from relaykit_audit import file
from relaykit_audit.file import AuditFile
from support.relays import active_session, ended, following, prompt, running_relay

pytestmark = pytest.mark.anyio

Record = Mapping[str, Any]


@asynccontextmanager
async def audited(directory: Path, *, toml: str = "") -> AsyncIterator[Relay]:
    async with running_relay(directory, toml=toml, RELAY__DISABLED='["gateway", "prometheus"]') as relay:
        yield relay


def records(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def in_order(path: Path) -> list[Record]:
    """Return the records in the order in which it happened; hooks are told side by side."""
    return sorted(records(path), key=lambda record: str(record["at"]))


def default_path(directory: Path) -> Path:
    return directory / "state" / "audit" / "audit.jsonl"


def without_times(found: Sequence[Record], *what: str) -> list[Record]:
    dropped = {"at", "what", "session", "role", "agent", "project", "waited"}
    return [
        {key: value for key, value in record.items() if key not in dropped}
        for record in found
        if record["what"] in what
    ]


async def test_everything_that_somebody_does_is_recorded(tmp_path: Path) -> None:
    async with audited(tmp_path) as relay:
        phone = relay.restricted_to(Access(), name="phone")
        session = await phone.create("auth", agent="echo")
        async with (
            following(relay, session.id) as client,
            phone.attach(session.id, client_id="c9", protocol="acp"),
        ):
            await client.until_notice("active")
            await phone.prompt(session.id, prompt("/ask mellon"), client_id="c9", turn="t1")
            asked = await client.until_asked()
            await phone.answer(session.id, asked.frame.ref, answer("yes"), client_id="c9")
            await client.until_turn_end("t1")
            mode = json.dumps({"modeId": "plan", "hush": "mellon"}).encode()
            await phone.call(session.id, "session/set_mode", mode, client_id="c9", ref="r1")
            await phone.stop(session.id, "enough")
            await ended(relay, session.id)  # before the clients go: else the two happen side by side
    path = default_path(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "mellon" not in path.read_text()
    found = in_order(path)
    assert [record["what"] for record in found if record["by"] in {"phone", "relay"}] == [
        "session.created",
        "client.attached",
        "prompt",
        "decision",
        "call",
        "session.stopped",
        "session.cleaned",
        "client.detached",
    ]
    assert {tuple(record[key] for key in ("session", "role", "agent", "project")) for record in found} == {
        (session.id, "auth", "echo", "default")
    }
    assert without_times(found, "session.created") == [{"by": "phone", "owner": "local"}]
    assert {
        "by": "phone",
        "client": "c9",
        "protocol": "acp",
        "access": "controller",
        "owner": "local",
    } in without_times(found, "client.attached")
    assert without_times(found, "prompt") == [{"by": "phone", "turn": "t1", "client": "c9"}]
    (decision,) = without_times(found, "decision")
    assert (
        decision.items()
        >= {"by": "phone", "outcome": "answered", "chosen": "yes", "kind": "allow_once"}.items()
    )
    assert decision["tool"]["toolCallId"]
    assert without_times(found, "call") == [
        {"by": "phone", "method": "session/set_mode", "modeId": "plan", "client": "c9"}
    ]
    assert without_times(found, "session.stopped") == [
        {"by": "phone", "cause": "REQUESTED", "reason": "enough"}
    ]
    (cleaned,) = without_times(found, "session.cleaned")
    assert cleaned["cleaners"]["acp"]["outcome"] == "DONE"


async def test_who_is_not_let_in_is_recorded_by_name_where_there_is_one(tmp_path: Path) -> None:
    at = datetime(2027, 1, 1, tzinfo=UTC)
    refused = {"where": "/metrics", "address": "::1", "status": 403, "reason": "not for you"}
    async with audited(tmp_path) as relay:
        for by in ("", "phone"):
            await relay.tell_refused(
                AccessRefused(where="/metrics", address="::1", status=403, reason="not for you", at=at, by=by)
            )
    assert records(default_path(tmp_path)) == [
        {"at": "2027-01-01T00:00:00.000000+00:00", "what": "access.refused", "by": by, **refused}
        for by in ("", "phone")
    ]


async def test_what_a_rule_decides_is_recorded_as_the_rules(tmp_path: Path) -> None:
    async with (
        audited(tmp_path, toml='[[permissions]]\naction = "allow"\n') as relay,
        active_session(relay) as client,
    ):
        await client.say("/ask", "t1")
        await client.until_turn_end("t1")
    (decision,) = without_times(records(default_path(tmp_path)), "decision")
    assert (decision["by"], decision["outcome"], decision["kind"]) == ("rule 1", "allowed", "allow_once")


async def test_the_last_words_of_an_agent_are_not_recorded(tmp_path: Path) -> None:
    async with (
        audited(tmp_path, toml='[relay]\non_crash = "end"\n') as relay,
        active_session(relay) as client,
    ):
        await client.say("/crash", "t1")
        assert b"told to crash" in (await client.until_turn_end("t1")).frame.body
        await ended(relay, client.session_id)
    path = default_path(tmp_path)
    assert "told to crash" not in path.read_text()
    (stopped,) = without_times(records(path), "session.stopped")
    assert stopped == {"by": "relay", "cause": "AGENT_EXITED", "reason": "agent 'echo': it exited with 1"}


def answer(option: str) -> bytes:
    return json.dumps({"outcome": {"outcome": "selected", "optionId": option}}).encode()


# ---------------------------------------------------------------- the file


def sizes(directory: Path) -> Mapping[str, int]:
    return {each.name: each.stat().st_size for each in directory.iterdir()}


def audit_file(path: Path, *, max_bytes: int = 0, keep: int = 9, sync: bool = False) -> AuditFile:
    return AuditFile(path, max_bytes=max_bytes, keep=keep, sync=sync)


@pytest.mark.parametrize("sync", [True, False])
async def test_records_of_many_at_once_are_lines_of_their_own(tmp_path: Path, sync: bool) -> None:  # noqa: FBT001
    path = tmp_path / "audit.jsonl"
    writer = audit_file(path, sync=sync)
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(writer.write, {"number": number, "text": "line\n\ud800"})
    assert sorted(record["number"] for record in records(path)) == list(range(100))


async def test_files_follow_each_other_and_none_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = audit_file(path, max_bytes=100, keep=2)
    for number in range(100):
        await writer.write({"number": number, "text": "x" * 20})
    names = sorted(sizes(tmp_path))
    assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    assert max(sizes(tmp_path).values()) <= 100
    kept = [record["number"] for name in reversed(names) for record in records(tmp_path / name)]
    assert kept == list(range(kept[0], 100))
    assert len(kept) > 4


async def test_none_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    writer = audit_file(tmp_path / "audit.jsonl", max_bytes=30, keep=0)
    for number in range(5):
        await writer.write({"number": number, "text": "x"})
    assert list(sizes(tmp_path)) == ["audit.jsonl"]
    assert records(tmp_path / "audit.jsonl")[-1]["number"] == 4


async def test_it_goes_on_behind_what_is_there_also_behind_half_a_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"number":1}\n{"num')
    await audit_file(path).write({"number": 2})
    assert path.read_text().splitlines() == ['{"number":1}', '{"num', '{"number":2}']


async def test_the_next_record_is_a_line_of_its_own_however_often_the_disk_was_full(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = audit_file(path)
    await writer.write({"number": 1})
    with files_no_larger_than(path.stat().st_size + 5):
        for number in (2, 3):  # of the second nothing fits, not even the end of the half that is there
            with pytest.raises(OSError, match=r"5 of 13 bytes were written|File too large"):
                await writer.write({"number": number})
    await writer.write({"number": 4})
    assert path.read_text().splitlines() == ['{"number":1}', '{"num', '{"number":4}']


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Have this process write no file over this size: what a full disk is like, for whoever is on it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def full_pipe(path: Path) -> Iterator[int]:
    """Make a file that can be opened and then takes nothing: what a disk that hangs is like. Yield its other end."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            while True:
                os.write(end, b"x" * 4096)
        yield end
    finally:
        os.close(end)


async def test_a_disk_that_hangs_ends_no_session_and_takes_what_waits_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file, "_LAST_CALL", 0.2)
    path = tmp_path / "pipe"
    toml = f'[relay]\nhook_timeout = 0.5\n[plugins.audit]\npath = "{path}"\n'
    with anyio.fail_after(20), full_pipe(path) as end:
        async with audited(tmp_path, toml=toml) as relay:
            async with active_session(relay) as client:
                await client.say("hello", "t1")
                await client.until_turn_end("t1")
                await relay.stop(client.session_id, "enough")
                await client.until_the_end()
            await ended(relay, client.session_id)
        assert 1 <= caplog.text.count("took longer than 0.5 s") <= 2  # who waited when it began to hang
        assert "the disk does not answer; what is recorded waits for it" in caplog.text
        assert "the last records could not be written within 0.2 s" in caplog.text
        said = b""
        while b'"session.created"' not in said:  # the thread goes on, if it is let
            with suppress(BlockingIOError):
                said += os.read(end, 1 << 20)
            await anyio.sleep(0.01)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="SKIPPED: there is no /dev/full here")
async def test_a_record_that_cannot_be_written_harms_no_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        audited(tmp_path, toml='[plugins.audit]\npath = "/dev/full"\n') as relay,
        active_session(relay) as client,
    ):
        await client.say("hello", "t1")
        await client.until_turn_end("t1")
        await relay.stop(client.session_id, "enough")
        await ended(relay, client.session_id)
    assert "audit" in caplog.text
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            'path = "/nowhere/audit.jsonl"',
            r"cannot write '/nowhere/audit.jsonl': No such file.*make its directory",
        ),
        ('path = "/"', "cannot write '/': Is a directory"),
    ],
)
async def test_a_file_that_cannot_be_opened_is_an_error_at_start(
    tmp_path: Path, toml: str, said: str
) -> None:
    with pytest.raises(PluginError, match=said):
        async with audited(tmp_path, toml=f"[plugins.audit]\n{toml}\n"):
            pass


async def test_where_its_own_directory_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "audit").touch()
    with pytest.raises(PluginError, match=r"cannot write '.*/state/audit/audit.jsonl': File exists; correct"):
        async with audited(tmp_path):
            pass


@pytest.mark.parametrize(
    ("toml", "said"), [("max_bytes = -1", "max_bytes must be"), ("keep = -1", "keep must be 0 to")]
)
async def test_wrong_settings_are_named(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        async with audited(tmp_path, toml=f"[plugins.audit]\n{toml}\n"):
            pass
