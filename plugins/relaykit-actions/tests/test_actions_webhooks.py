"""Webhooks, as a receiver on this machine gets them."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx
import pytest
from anyio import CapacityLimiter

from relaykit.testing import FakeClock, FakeIds
from relaykit_actions.addresses import is_public, resolve
from relaykit_actions.errors import ActionFailed
from relaykit_actions.happenings import Happening
from relaykit_actions.signature import keys_of, sign
from relaykit_actions.webhook import Pauses, Webhook, seconds_of
from support.certificates import make_certificate
from support.webhook_receiver import Answer, Receiver, receiving

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = f"whsec_{'QUJD' * 8}"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
ACTIVE = Happening("active", NOW, {"session_id": "s1", "agent_id": "auth", "reason": "Zeile\n„zwei“ \ud800"})


class Slept:
    """Pauses that take no time, and are remembered."""

    def __init__(self, clock: FakeClock) -> None:
        self.pauses: list[float] = []
        self._clock = clock

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._clock.advance(seconds)


def webhook(
    receiver: Receiver, *, retries: int = 3, allow_private: bool = True, timeout: float = 20
) -> tuple[Webhook, Slept]:
    clock = FakeClock(NOW)
    slept = Slept(clock)
    made = Webhook(
        url=httpx.URL(receiver.url),
        keys=keys_of(f"{SECRET} {OTHER}"),
        allow_private=allow_private,
        retries=retries,
        timeout=timeout,
        clock=clock,
        ids=FakeIds(),
        pauses=Pauses(sleep=slept.sleep, jitter=lambda: 1.0),
    )
    return made, slept


async def post(hook: Webhook) -> None:
    with anyio.fail_after(30):
        await hook.do(ACTIVE, CapacityLimiter(1))


async def test_it_is_signed_as_standard_webhooks_says() -> None:
    with receiving() as receiver:
        await post(webhook(receiver)[0])
    [posted] = receiver.got
    assert posted.path == "/hook"
    assert posted.said == {"type": "active", "timestamp": NOW.isoformat(), "data": ACTIVE.facts}
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert posted.headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert posted.headers["webhook-id"] == "msg_session-000001"
    for secret in (SECRET, OTHER):
        posted.verify(secret)
    with pytest.raises(AssertionError):
        posted.verify("whsec_" + "A" * 32)


def test_the_specifications_own_example() -> None:
    """From the test suites of its reference libraries."""
    signature = sign(
        keys_of(SECRET),
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text", ["", " ", "whsec_", "hush", "whsec_aHVzaA==", f"{SECRET} hush", "whsec_" + "A" * 92]
)
def test_what_is_no_secret_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes") as raised:
        keys_of(text)
    assert "hush" not in str(raised.value)
    assert "aHVzaA" not in str(raised.value)


async def test_what_may_help_is_tried_again_with_the_same_id() -> None:
    in_a_minute = "Tue, 01 Jan 2030 00:01:00 GMT"
    answers = [
        Answer(503, {"Retry-After": in_a_minute}),
        Answer(500),
        Answer(429, {"Retry-After": "7"}),
        Answer(0),  # the connection is closed
    ]
    with receiving(*answers) as receiver:
        hook, slept = webhook(receiver, retries=4)
        await post(hook)
    assert slept.pauses == [60.0, 2.0, 7.0, 8.0]
    assert {posted.headers["webhook-id"] for posted in receiver.got} == {"msg_session-000001"}
    times = [int(posted.headers["webhook-timestamp"]) - int(NOW.timestamp()) for posted in receiver.got]
    assert times == [0, 60, 62, 69, 77]
    for posted in receiver.got:
        posted.verify(SECRET)


@pytest.mark.parametrize(
    ("answers", "tried", "said"),
    [
        ([Answer(500)] * 3, 3, "the answer is 500; it was tried 3 times"),
        ([Answer(503, {"Retry-After": "3601"})], 1, "503, and wants to be left alone for 3601 s"),
        ([Answer(400)], 1, "the answer is 400"),
        ([Answer(410)], 1, "the answer is 410"),
        ([Answer(307, {"Location": "http://127.0.0.1:1/"})], 1, "a redirect, which is not followed"),
        ([Answer(302, {"Location": "/elsewhere"})], 1, "a redirect, which is not followed"),
    ],
    ids=["again and again", "leave me alone", "wrong", "gone", "307", "302"],
)
async def test_what_is_final(answers: Sequence[Answer], tried: int, said: str) -> None:
    with receiving(*answers) as receiver:
        hook, _ = webhook(receiver, retries=2)
        with pytest.raises(ActionFailed, match=said):
            await post(hook)
    assert len(receiver.got) == tried


async def test_nobody_listens() -> None:
    with receiving() as receiver:
        pass
    hook, slept = webhook(receiver)
    with pytest.raises(ActionFailed, match=r"ConnectError: .*; it was tried 4 times"):
        await post(hook)
    assert slept.pauses == [1.0, 2.0, 4.0]


async def test_a_receiver_that_hangs_has_its_time_and_no_more() -> None:
    with receiving() as receiver:
        receiver.open.clear()
        hook, _ = webhook(receiver, retries=0, timeout=0.2)
        with pytest.raises(ActionFailed, match=r"no answer within 0.2 s; it was tried once"):
            await post(hook)


async def test_a_pause_is_no_use_of_a_slot() -> None:
    slots = CapacityLimiter(1)
    used: list[int] = []
    with receiving(Answer(500)) as receiver:
        hook, slept = webhook(receiver)

        async def sleep(seconds: float) -> None:
            used.append(slots.borrowed_tokens)
            await slept.sleep(seconds)

        await replace(hook, pauses=Pauses(sleep=sleep)).do(ACTIVE, slots)
    assert used == [0]


def test_pauses_grow_to_a_minute_and_are_not_all_the_same() -> None:
    most, least = Pauses(jitter=lambda: 1.0), Pauses(jitter=lambda: 0.0)
    assert [most.after(failures) for failures in (1, 2, 3, 7, 2000)] == [1, 2, 4, 60, 60]
    assert [least.after(failures) for failures in (1, 2, 7)] == [0.5, 1, 30]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("9" * 400, 999999999999),
        ("Tue, 01 Jan 2030 00:02:00 GMT", 120),
        ("Mon, 31 Dec 2029 00:00:00 GMT", 0),
        ("Tue, 01 Jan 2030 00:02:00", 0),
        ("soon", 0),
        ("-1", 0),
        ("", 0),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert seconds_of(text, now=NOW) == seconds


# ---------------------------------------------------------------- where it goes


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


async def test_an_address_that_is_not_public_is_not_connected_to() -> None:
    with receiving() as receiver:
        for host in ("127.0.0.1", "localhost", "2130706433"):  # the last is a way to write the first
            receiver.url = f"http://{host}:{receiver.port}/"
            hook, _ = webhook(receiver, allow_private=False)
            with pytest.raises(ActionFailed, match="is not on the public internet"):
                await post(hook)
    assert receiver.got == []


async def test_a_name_that_leads_somewhere_else_at_the_next_look_does_not_help_anybody() -> None:
    """DNS rebinding: what is connected to is what was checked."""
    asked: list[str] = []

    async def find(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["::1", "127.0.0.1"] if len(asked) > 1 else ["10.0.0.1", "192.0.2.1"]

    with receiving() as receiver:
        receiver.url = f"http://example.com:{receiver.port}/"
        hook, _ = webhook(receiver, allow_private=False)
        with pytest.raises(ActionFailed, match=r"10.0.0.1, which is not on the public internet"):
            await post(replace(hook, find=find))
        assert asked == ["example.com"]
        await post(replace(hook, find=find, allow_private=True))  # the second of two addresses takes it
    assert asked == ["example.com"] * 2
    [posted] = receiver.got
    assert posted.headers["host"] == f"example.com:{receiver.port}"


async def test_a_host_that_nobody_knows_is_asked_for_again() -> None:
    async def find(_host: str, _port: int) -> Sequence[str]:
        raise OSError("nobody knows it")

    with receiving() as receiver:
        hook, slept = webhook(receiver, retries=1)
        with pytest.raises(ActionFailed, match="nobody knows it; it was tried 2 times"):
            await post(replace(hook, find=find))
    assert slept.pauses == [1.0]
    assert "127.0.0.1" in await resolve("localhost", 80)


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="SKIPPED: there is no openssl, which makes certificates"
)
async def test_the_certificate_is_the_names_though_the_address_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path, "DNS:hooks.example.com")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=certificate)
    # Nobody listens to what the environment says.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async def find(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with receiving(tls=tls) as receiver:
        hooks: dict[str, Webhook] = {}
        for host in ("hooks.example.com", "other.example.com"):
            receiver.url = f"https://{host}:{receiver.port}/"
            hooks[host] = replace(webhook(receiver, retries=0)[0], find=find)
        nobody_vouches, not_its_name = (
            hooks["hooks.example.com"],
            replace(hooks["other.example.com"], tls=trust),
        )
        for hook in (nobody_vouches, not_its_name):
            with pytest.raises(ActionFailed, match=r"(?i)ConnectError: .*certificate"):
                await post(hook)
        await post(replace(hooks["hooks.example.com"], tls=trust))
    [posted] = receiver.got
    posted.verify(SECRET)
