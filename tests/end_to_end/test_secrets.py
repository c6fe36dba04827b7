"""Secrets of a relay's environment and settings, and everything that comes out of it: none of them does."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaykit_acp.finding import ECHO
from support.programs import Place, Program, started

GRANTED = "sk-granted-4a1b"
UNGRANTED = "sk-ungranted-5c2d"
IN_A_VARIABLE = "mcp-variable-6e3f"
IN_A_HEADER = "mcp-header-7a4b"
RELAY_TOKEN = "relay-token-8c5d-long-enough"
SECRETS = (GRANTED, UNGRANTED, IN_A_VARIABLE, IN_A_HEADER)

# An agent that writes what it was given to its standard error, as agents do when something is wrong, and then is echo.
SAYS_ALL = f"""
import json, os, sys
print("my key is", os.environ["GRANTED_KEY"], file=sys.stderr)
print("my variables are", json.dumps(dict(os.environ)), file=sys.stderr, flush=True)
with open("was_given", "w") as file:
    file.write(" ".join(name for name in os.environ if name.endswith("GRANTED_KEY")))
if "fails" in sys.argv and os.path.basename(os.getcwd()) == "work":  # in a session, not when it is asked what it is
    sys.exit(f"exits with {{os.environ['GRANTED_KEY']}}")
os.execv({ECHO.command[0]!r}, {list(ECHO.command)!r})
"""


def settings(program: Path) -> str:
    servers = (
        f'[{{name = "files", command = "/bin/false", args = [], env = [{{name = "T", value = "{IN_A_VARIABLE}"}}]}}, '
        '{name = "web", type = "http", url = "http://127.0.0.1:1", '
        f'headers = [{{name = "Authorization", value = "Bearer {IN_A_HEADER}"}}]}}]'
    )
    tables = {
        "good": [ECHO.command[0], str(program)],
        "fails": [ECHO.command[0], str(program), "fails"],
        "missing": ["there-is-no-such-program"],
    }
    relay = '[relay]\nworkspace = "in_place"\n[plugins.gateway]\nport = 0\n'
    return relay + "\n".join(
        f'[agents.{name}]\ncommand = {json.dumps(command)}\nenv = ["GRANTED_KEY"]\nmcp_servers = {servers}'
        for name, command in tables.items()
    )


class Relay:
    """A place with a relay that knows secrets, and all that has come out of it."""

    def __init__(self, place: Place, relay: Program, url: str) -> None:
        self.place = place
        self.relay = relay
        self.url = url
        self.out: dict[str, str] = {}

    def run(self, *arguments: str) -> str:
        """Run a command with the same environment."""
        done = self.place.run(
            *arguments,
            GRANTED_KEY=GRANTED,
            UNGRANTED_KEY=UNGRANTED,
            RELAYKIT_PLUGINS__GATEWAY__TOKEN=RELAY_TOKEN,
        )
        self.out[" ".join(arguments)] = done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> str:
        """Return what the API says."""
        request = urllib.request.Request(
            f"{self.url}{path}", headers={"Authorization": f"Bearer {RELAY_TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            self.out[path] = answer.read().decode()
        return self.out[path]

    def command_lines(self) -> None:
        """Take down the command lines of all that runs here."""
        for pid in self.place.processes():
            self.out[f"process {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()

    def refused(self, token: str) -> None:
        """Come with a wrong token, in a header and in the address."""
        for address, headers in (
            ("/api/sessions", {"Authorization": f"Bearer {token}"}),
            (f"/acp?agent=echo&token={token}", {}),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(
                    urllib.request.Request(f"{self.url}{address}", headers=headers), timeout=10
                )
            with caught.value as answer:
                self.out[f"refusal of {address}"] = answer.read().decode()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Relay]:
    place = Place(tmp_path)
    program = tmp_path / "says_all.py"
    program.write_text(SAYS_ALL)
    (place.work / "relaykit.toml").write_text(settings(program))
    with started(
        place,
        *("serve", "--log-level", "debug"),
        GRANTED_KEY=GRANTED,
        UNGRANTED_KEY=UNGRANTED,
        RELAYKIT_PLUGINS__GATEWAY__TOKEN=RELAY_TOKEN,
    ) as relay:
        url = relay.expect(r"(http://127\.0\.0\.1:\d+)/\?token=\S+")[1]
        yield Relay(place, relay, url)
        relay.interrupt()
        relay.exit_code()


def test_no_secret_comes_out(there: Relay) -> None:
    there.run("run", "--agent", "missing", "hello")
    assert "no-such-program" in there.out["run --agent missing hello"]
    there.run("run", "--agent", "fails", "hello")
    assert "exits with ***" in there.out["run --agent fails hello"]
    assert there.run("run", "--agent", "good", "--keep", "hello") == "hello\n"
    there.command_lines()
    there.run("run", "--agent", "good", "--json", "/crash 3")
    assert "my key is ***" in there.out["run --agent good --json /crash 3"]  # its last words
    assert (there.place.work / "was_given").read_text() == "GRANTED_KEY"
    there.refused("wrong-token-9e6f")
    for path in ("/api/sessions", "/api/sessions?ended=true", "/api/plugins", "/metrics"):
        there.get(path)
    ended = json.loads(there.get("/api/sessions?ended=true"))["sessions"]
    assert {session["agent"] for session in ended} == {"fails", "good"}
    live = json.loads(there.get("/api/sessions"))["sessions"]
    for session in (*ended, *live):
        there.get(f"/api/sessions/{session['id']}/transcript")
        there.run("transcript", session["id"])
    for command in ("settings", "doctor", "agents", "plugins"):
        assert there.run(command, "--json")
    for session in live:
        there.run("sessions", "stop", session["id"])
    there.relay.interrupt()
    there.relay.exit_code()
    log = re.sub(r"\?token=\S+", "?token=", there.relay.said, count=1)  # the link is for people to open
    there.out["log"] = log
    assert "my key is ***" in log
    state = there.place.home / ".local/state/relaykit"
    for file in state.rglob("*"):
        if file.is_file() and file.name != "token":  # of the relay's own: private to the user
            there.out[str(file)] = file.read_bytes().decode(errors="replace")
    assert any("my key is ***" in text for path, text in there.out.items() if path.endswith(".db"))
    for what, text in there.out.items():
        found = [secret for secret in (*SECRETS, RELAY_TOKEN, "wrong-token-9e6f") if secret in text]
        assert not found, f"{found} in {what}: {text}"
