"""``relaykit tokens``, as people run it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from relaykit_gateway.token_file import digest_of
from support.programs import Place, serving, started


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where a relay runs."""
    here = Place(tmp_path_factory.mktemp("tokens"))
    (here.work / "relaykit.toml").write_text('[projects.shop]\npath = "."\n[projects.site]\npath = "."\n')
    with serving(here):
        yield here
    assert here.processes() == []


def test_without_a_relay_a_token_is_added_listed_and_revoked(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert json.loads(place.run("tokens", "list", "--json").stdout) == []
    added = place.run("tokens", "add", "phone", "--role", "controller")
    assert added.returncode == 0, added.stderr
    secret = added.stdout.strip()
    assert added.stdout == f"{secret}\n"  # and nothing else: for scripts
    assert secret not in added.stderr
    assert added.stderr.startswith("token 'phone': controller of 'local'. It is shown this once")
    listed = place.run("tokens", "list")
    assert listed.stdout.splitlines()[1].split()[:5] == ["phone", "controller", "local", "all", "all"]
    for done in (listed, place.run("tokens", "list", "--json")):
        assert secret not in done.stdout
        assert digest_of(secret) not in done.stdout
    again = place.run("tokens", "add", "phone", "--role", "controller")
    assert (again.returncode, again.stdout) == (1, "")
    assert "there is a token 'phone' already" in again.stderr
    assert place.run("tokens", "revoke", "phone").stdout == "token phone is revoked\n"
    gone = place.run("tokens", "revoke", "phone")
    assert (gone.returncode, gone.stderr) == (1, "relaykit: there is no token 'phone'; there are: none\n")


def test_what_it_may(place: Place) -> None:
    options = ("--role", "observer", "--owner", "ann", "--project", "shop", "site", "--expires", "30d")
    added = place.run("tokens", "add", "guest", *options)
    assert added.returncode == 0, added.stderr
    assert "observer of 'ann', of the projects shop, site alone, until " in added.stderr
    assert "narrow, so that it may stand in a URL" in added.stderr
    [token] = json.loads(place.run("tokens", "list", "--json").stdout)
    times = [datetime.fromisoformat(token.pop(key)) for key in ("createdAt", "expiresAt")]
    assert times[1] - times[0] == timedelta(days=30)
    assert token == {
        "name": "guest",
        "role": "observer",
        "owner": "ann",
        "projects": ["shop", "site"],
        "sessions": None,
        "expired": False,
    }
    place.run("tokens", "revoke", "guest")


def test_a_session_is_named_by_the_beginning_of_its_id(place: Place) -> None:
    with started(place, "chat", "--role", "watched", "--project", "shop") as chat:
        session_id = chat.expect(r"session ([0-9a-f]+): ")[1]
        added = place.run("tokens", "add", "link", "--role", "observer", "--session", session_id[:10])
        assert added.returncode == 0, added.stderr
        [token] = json.loads(place.run("tokens", "list", "--json").stdout)
        assert token["sessions"] == [session_id]
        chat.end_input()
        assert chat.exit_code() == 0
    place.run("tokens", "revoke", "link")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--role", "controller", "--project", "shap"), "there is no project 'shap' (did you mean 'shop'?)"),
        (("--role", "controller", "--session", "nobody"), "no session 'nobody'"),
        (("--role", "controller", "--owner", "a b"), "'a b' names no owner"),
        (("--role", "king"), "invalid choice: 'king'"),
        ((), "--role"),
        (("--role", "observer", "--expires", "soon"), "'soon' is no period"),
        (("--role", "observer", "--expires", "0d"), "'0d' is no period"),
    ],
)
def test_what_is_refused(place: Place, arguments: tuple[str, ...], complaint: str) -> None:
    done = place.run("tokens", "add", "wrong", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert complaint in done.stderr
    assert json.loads(place.run("tokens", "list", "--json").stdout) == []


def test_no_token_is_called_as_what_is_no_client(place: Place) -> None:
    for name in ("relay", "agent", "the relay's own token"):
        done = place.run("tokens", "add", name, "--role", "controller")
        assert (done.returncode, done.stdout) == (1, "")
        assert repr(name) in done.stderr
    assert json.loads(place.run("tokens", "list", "--json").stdout) == []


def test_a_corrupt_file_is_said(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.run("tokens", "add", "phone", "--role", "controller")
    [file] = place.home.rglob("tokens.json")
    file.write_text("{")
    for arguments in (("list",), ("revoke", "phone"), ("add", "other", "--role", "observer")):
        done = place.run("tokens", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "tokens.json' cannot be read" in done.stderr
    assert file.read_text() == "{"
