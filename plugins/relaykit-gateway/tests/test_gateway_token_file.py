"""The file of the named tokens: what is kept of them, and that nothing wrong with it lets anybody in."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relaykit.errors import RelaykitError
from relaykit.hooks.registration import Surroundings, Verdict
from relaykit.relay.access import Access, Role
from relaykit.testing.fakes import FakeClock
from relaykit_gateway.checks import TokenCheck
from relaykit_gateway.token_file import (
    DuplicateToken,
    KnownTokens,
    NamedToken,
    TokenFile,
    TokenFileError,
    UnknownToken,
    check_name,
    digest_of,
    new_token,
    tokens_path,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
NARROW = Access(
    owner="ann", role=Role.OBSERVER, projects=frozenset({"b", "a"}), sessions=frozenset({"s2", "s1"})
)


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tokens_path(tmp_path / "state"))


def named(name: str, token: str = "", access: Access | None = None, **fields: datetime) -> NamedToken:
    return NamedToken(
        name=name, digest=digest_of(token or new_token()), access=access or Access(), created_at=AT, **fields
    )


def test_what_is_added_is_read_again_and_revoked_for_good(file: TokenFile) -> None:
    assert file.read() == ()
    tokens = [named("a", access=NARROW, expires_at=AT + timedelta(days=1)), named("b")]
    for token in reversed(tokens):
        file.add(token)
    assert file.read() == tokens
    with pytest.raises(DuplicateToken, match="there is a token 'a' already"):
        file.add(named("a"))
    file.revoke("a")
    assert file.read() == tokens[1:]
    with pytest.raises(UnknownToken, match="there is no token 'a'; there are: b"):
        file.revoke("a")
    file.revoke("b")
    with pytest.raises(UnknownToken, match="there are: none"):
        file.revoke("b")


def test_the_token_itself_is_not_kept(file: TokenFile) -> None:
    secret = new_token()
    assert len(secret) >= 43 + 4  # 256 bits
    assert secret.startswith("rkt_")
    assert secret != new_token()
    file.add(named("a", secret))
    assert secret not in file.path.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in file.path.read_text()
    assert digest_of(secret) not in repr(file.read())


def test_it_is_private_and_nothing_is_left_of_how_it_was_written(
    file: TokenFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.add(named("a"))
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in file.path.parent.iterdir()} == {"tokens.json", "tokens.lock"}
    file.path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert len(file.read()) == 1
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert "made private again" in caplog.text


def test_one_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "gateway").touch()
    with pytest.raises(TokenFileError, match="cannot be written"):
        TokenFile(tokens_path(tmp_path)).add(named("a"))


def _add_some(path: Path, prefix: str) -> None:
    for number in range(20):
        TokenFile(path).add(named(f"{prefix}{number}"))
        if number % 2:
            TokenFile(path).revoke(f"{prefix}{number}")


def test_writers_wait_for_each_other(file: TokenFile) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_some, args=(file.path, prefix)) for prefix in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    expected = {f"{prefix}{number}" for prefix in "abc" for number in range(0, 20, 2)}
    assert {token.name for token in file.read()} == expected


STORED = (
    '{"name":"a","digest":"' + "0" * 64 + '","role":"observer","owner":"local","projects":null,'
    '"sessions":null,"createdAt":"2026-01-01T00:00:00Z","expiresAt":null}'
)
CORRUPT = {
    "empty": "",
    "half written": '{"version":1,"tok',
    "binary": "\xff\x00",
    "another shape": "[]",
    "another version": '{"version":2,"tokens":[]}',
    "deep": "[" * 100_000,
    "an unknown field": '{"version":1,"tokens":[' + STORED.replace("{", '{"hours":"9-17",', 1) + "]}",
    "an unknown role": '{"version":1,"tokens":[' + STORED.replace("observer", "owner") + "]}",
    "no role": '{"version":1,"tokens":[' + STORED.replace('"role":"observer",', "") + "]}",
    "no restriction": '{"version":1,"tokens":[' + STORED.replace('"sessions":null,', "") + "]}",
    "no digest": '{"version":1,"tokens":[' + STORED.replace("0" * 64, "") + "]}",
    "no owner": '{"version":1,"tokens":[' + STORED.replace("local", "") + "]}",
    "no time zone": '{"version":1,"tokens":[' + STORED.replace("00Z", "00") + "]}",
    "one name twice": '{"version":1,"tokens":[' + STORED + "," + STORED + "]}",
}


def test_what_the_corrupt_ones_are_made_of_is_right(file: TokenFile) -> None:
    file.path.parent.mkdir(parents=True)
    file.path.write_text('{"version":1,"tokens":[' + STORED + "]}")
    file.path.chmod(0o600)
    assert [token.name for token in file.read()] == ["a"]


@pytest.mark.parametrize("content", CORRUPT.values(), ids=list(CORRUPT))
def test_a_corrupt_file_is_an_error_lets_nobody_in_and_is_not_written_over(
    file: TokenFile, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = new_token()
    file.add(named("good", secret))
    known = KnownTokens(file, FakeClock())
    token = known.find(secret)
    assert token is not None
    raw = content.encode("latin-1")
    file.path.write_bytes(raw)
    for change in (file.read, lambda: file.add(named("b")), lambda: file.revoke("good")):
        with pytest.raises(TokenFileError, match=r"tokens\.json' cannot be read: .*\. Correct it"):
            change()
    assert file.path.read_bytes() == raw
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(TokenFileError):
                known.find(secret)
            assert known.why_not(token) == "the relay cannot read its tokens"
    assert len(caplog.records) == 1
    assert secret not in caplog.text
    file.path.unlink()
    file.add(named("good", secret))
    assert known.find(secret) is not None


def test_a_file_that_may_not_be_read(file: TokenFile) -> None:
    file.path.mkdir(parents=True)
    with pytest.raises(TokenFileError, match="cannot be read: Is a directory"):
        file.read()


def test_changes_are_known_at_once(file: TokenFile) -> None:
    clock = FakeClock()
    known = KnownTokens(file, clock)
    secret, other = new_token(), new_token()
    assert known.find(secret) is None
    file.add(named("a", secret, NARROW))
    token = known.find(secret)
    assert token is not None
    assert (token.name, token.access) == ("a", NARROW)
    assert known.why_not(token) == ""
    for wrong in ("", secret[:-1], secret + " ", secret.upper(), other, "ü", "\udcff", digest_of(secret)):
        assert known.find(wrong) is None
    file.add(named("b", other))
    assert known.why_not(token) == ""
    file.revoke("a")
    assert known.find(secret) is None
    assert known.find(other) is not None
    assert known.why_not(token) == "the token was revoked"
    file.add(named("a"))  # another one of the same name
    assert known.why_not(token) == "the token was revoked"
    file.path.unlink()
    assert known.find(other) is None


def test_it_expires(file: TokenFile) -> None:
    clock = FakeClock()
    secret = new_token()
    file.add(named("a", secret, expires_at=clock.now() + timedelta(hours=1)))
    known = KnownTokens(file, clock)
    token = known.find(secret)
    assert token is not None
    clock.advance(3599)
    assert known.find(secret) == token
    assert known.why_not(token) == ""
    clock.advance(1)
    assert known.find(secret) is None
    assert known.why_not(token) == "the token has expired"


@pytest.mark.anyio
async def test_what_the_doctor_says(file: TokenFile) -> None:
    state_dir, clock = file.path.parent.parent, FakeClock()

    async def findings() -> list[tuple[Verdict, str]]:
        look = TokenCheck(state_dir, clock).check().look
        found = await look(Surroundings(running=False, sessions={}, workspace="in_place"))
        return [(each.verdict, each.what) for each in found]

    assert await findings() == [(Verdict.OK, "named tokens: 0")]
    assert not state_dir.joinpath("gateway").exists()
    file.add(named("a"))
    file.add(named("b", expires_at=clock.now()))
    expected = [(Verdict.OK, "named tokens: 2"), (Verdict.WARNING, "tokens that have expired: b")]
    assert await findings() == expected
    file.path.chmod(0o640)
    assert await findings() == [(Verdict.WARNING, f"others than you may open {file.path}")]
    assert file.path.stat().st_mode & 0o777 == 0o640  # it changes nothing
    file.path.chmod(0o600)
    file.path.write_text("{")
    [(verdict, what)] = await findings()
    assert verdict is Verdict.TROUBLE
    assert "tokens.json' cannot be read" in what


@pytest.mark.parametrize("name", ["a", "phone", "Ann.Smith@example.org", "0-9_", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name, what="token") == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "ü", "x" * 65, "a\n"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(RelaykitError, match="names no token"):
        check_name(name, what="token")
