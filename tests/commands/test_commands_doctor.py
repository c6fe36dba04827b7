"""`relaykit doctor`: every line of it, and that it changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from relaykit.commands import main
from relaykit.relay.running import running_file
from relaykit.testing import FakeClock
from support.plugin_sites import Site


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory of our own, without settings in the environment."""
    for name in os.environ:
        if name.upper().startswith(("RELAYKIT_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Only what a test installs is installed, and relaykit itself."""
    made = Site(tmp_path / "site", monkeypatch)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: made.entry_points())
    return made


STATE = "[relay]\nstate_dir = 'state'\nworkspace = 'in_place'\n"


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    """Return the exit code, and what was found."""
    code = main(["doctor", "--json"])
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    assert all(set(each) == {"check", "verdict", "what", "fix"} for each in found)
    return code, found


def lines_of(found: list[dict[str, str]], check: str) -> list[tuple[str, str]]:
    return [(each["verdict"], each["what"]) for each in found if each["check"] == check]


def test_where_nothing_is_wrong(site: Site, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("quiet")
    (work / "relaykit.toml").write_text(STATE)
    code, found = examined(capsys)
    assert code == 0
    assert lines_of(found, "settings") == [
        ("ok", f"{work / 'relaykit.toml'} is read"),
        ("ok", f"project 'default' is {work}"),
    ]
    assert [what for _, what in lines_of(found, "plugins")][1] == "quiet 1.2.3 is loaded"
    assert lines_of(found, "state") == [("ok", f"{work / 'state'} is not there yet, and will be made")]
    assert lines_of(found, "parts") == [("ok", "the workspace 'in_place' is there")]
    assert not (work / "state").exists()


def test_as_text(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "relaykit.toml").write_text(f"{STATE}[agents.ghost]\ncommand = ['no-such-program']\n")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "trouble  agents    ghost: there is no program 'no-such-program' on PATH\n" in out
    assert "-> install it, or correct `command` in [agents.ghost]\n" in out


@pytest.mark.parametrize(
    ("toml", "check", "said"),
    [
        ("[relay]\nworkspce = 'x'", "settings", "workspce"),
        ("not toml", "settings", "relaykit.toml"),
        ("[projects.shop]\npath = 'nowhere'", "settings", "project 'shop': there is no directory"),
        ("[plugins.absent]\nx = 1", "plugins", "the plugin 'absent' is not installed"),
        ("[relay]\nstorage = 'disk'", "storage", "'disk'"),
        ("[relay]\nworkspace = 'tree'", "parts", "'tree'"),
        ("[relay]\ncleaners = ['broom']\nworkspace = 'in_place'", "parts", "'broom'"),
        ("[relay]\ndefault_agent = 'nobody'", "agents", "there is no agent 'nobody'"),
        ("[agents.a]\ncommand = ['sh']\nlauncher = 'rocket'", "parts", "'rocket'"),
        ("[[permissions]]\naction = 'alow'", "settings", "permissions[1].action"),
        ("[[permissions]]\naction = 'allow'\nagent = 'nobody'", "agents", "there is no agent 'nobody'"),
    ],
)
def test_what_is_trouble(
    work: Path, capsys: pytest.CaptureFixture[str], toml: str, check: str, said: str
) -> None:
    (work / "relaykit.toml").write_text(toml)
    code, found = examined(capsys)
    assert code == 1
    assert any(verdict == "trouble" and said in what for verdict, what in lines_of(found, check)), found


def test_plugins_that_are_broken_or_blocked(
    site: Site, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("sunk", "raise RuntimeError('holes')")
    site.install("barred", "raise RuntimeError('never imported')")
    (work / "relaykit.toml").write_text(f"{STATE}disabled = ['barred']\n")
    code, found = examined(capsys)
    told = {what: verdict for verdict, what in lines_of(found, "plugins")}
    assert told["barred 1.2.3 is blocked: disabled in [relay]"] == "ok"
    [broken] = [what for what in told if "sunk" in what]
    assert "holes" in broken
    assert (code, told[broken]) == (0, "warning")
    (work / "relaykit.toml").write_text(f"{STATE}[plugins.sunk]\nx = 1\n")
    code, found = examined(capsys)
    assert code == 1
    assert [verdict for verdict, what in lines_of(found, "plugins") if "sunk" in what] == ["trouble"]


def test_hooks_in_the_settings_of_a_plugin_that_is_blocked(
    site: Site, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("actions")
    (work / "relaykit.toml").write_text(f"{STATE}disabled = ['actions']\n[[hooks]]\non = ['active']\n")
    code, found = examined(capsys)
    [(verdict, what)] = [line for line in lines_of(found, "plugins") if "actions" in line[1]]
    assert (code, verdict) == (0, "warning")
    assert "every table of [[hooks]]" in what


def test_two_plugins_of_one_name(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("twin", distribution="one")
    site.install("twin", distribution="other")
    code, found = examined(capsys)
    assert code == 1
    assert [verdict for verdict, _ in lines_of(found, "plugins")] == ["trouble"]


def test_an_environment_that_lacks_what_an_agent_wants(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "relaykit.toml").write_text(
        f"{STATE}[agents.a]\ncommand = ['sh']\nenv = ['NOT_SET']\nlauncher = 'x'\n"
    )
    _, found = examined(capsys)
    assert ("warning", "a: not set in the environment: NOT_SET") in lines_of(found, "agents")


# ---------------------------------------------------------------- the state directory


@pytest.mark.parametrize(
    ("mode", "verdict", "said"),
    [(0o700, "ok", "is private"), (0o755, "warning", "others than you may look into")],
)
def test_a_state_directory(
    work: Path, capsys: pytest.CaptureFixture[str], mode: int, verdict: str, said: str
) -> None:
    (work / "relaykit.toml").write_text(STATE)
    (work / "state").mkdir(mode=mode)
    (work / "state").chmod(mode)
    _, found = examined(capsys)
    [(told, what)] = lines_of(found, "state")
    assert told == verdict
    assert said in what


def test_a_state_directory_that_is_a_file(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "relaykit.toml").write_text("[relay]\nstate_dir = 'state'\n")
    (work / "state").touch()
    code, found = examined(capsys)
    assert code == 1
    assert lines_of(found, "state") == [("trouble", f"{work / 'state'} is no directory")]
    [(verdict, what)] = lines_of(found, "relay")
    assert verdict == "trouble"
    assert "cannot be read" in what
    assert lines_of(found, "agents")


# ---------------------------------------------------------------- storage, and the relay that has it


DISK = """
    from contextlib import asynccontextmanager
    from relaykit.conversation import MemoryJournal
    from relaykit.errors import StoreError
    from relaykit.hooks import hookimpl
    from relaykit.session import MemoryStore

    class Store(MemoryStore):
        durable = True

        async def touch(self, activity, /):
            assert list(activity) == ["relaykit-doctor"]
            {failure}

    @hookimpl
    def relaykit_register_storages():
        @asynccontextmanager
        async def opened():
            yield Store(), MemoryJournal()

        return {{"disk": opened}}
"""


@pytest.mark.parametrize(
    ("failure", "verdict", "said"),
    [
        ("pass", "ok", "disk can be read and written; sessions: 0"),
        ("raise StoreError('it is full', plugin='disk')", "trouble", "it is full"),
    ],
)
def test_a_storage(
    site: Site, work: Path, capsys: pytest.CaptureFixture[str], failure: str, verdict: str, said: str
) -> None:
    site.install("disk", DISK.format(failure=failure))
    (work / "relaykit.toml").write_text(f"{STATE}storage = 'disk'\n")
    code, found = examined(capsys)
    [(told, what)] = lines_of(found, "storage")
    assert (code, told) == (int(verdict == "trouble"), verdict)
    assert said in what


def test_a_storage_that_forgets(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "state").mkdir(mode=0o700)
    for given, verdict in (("", "warning"), ("storage = 'memory'\n", "ok")):
        (work / "relaykit.toml").write_text(STATE + given)
        code, found = examined(capsys)
        assert code == 0
        assert lines_of(found, "storage") == [
            (verdict, "memory forgets sessions and transcripts when the relay ends")
        ]


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/readyz"
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def answering() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Ready) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_relay_that_runs_is_asked(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "relaykit.toml").write_text(f"{STATE}storage = 'never opened'\n")
    with running_file(work / "state", started=FakeClock().now()) as running:
        code, found = examined(capsys)
        assert code == 0
        assert "without a gateway" in lines_of(found, "relay")[0][1]
        with answering() as url:
            running.set_url(url)
            code, found = examined(capsys)
        assert code == 0
        assert lines_of(found, "relay") == [
            ("ok", f"the relay with pid {os.getpid()} answers at {url}, and has the storage open")
        ]
        assert lines_of(found, "storage") == []
        code, found = examined(capsys)  # nobody listens there any more
        assert code == 1
        assert "does not answer" in lines_of(found, "relay")[0][1]


# ---------------------------------------------------------------- what plugins look at


LOOKING = """
    import anyio
    from relaykit.errors import RelaykitError
    from relaykit.hooks import hookimpl
    from relaykit.hooks.registration import Check, Finding, Verdict

    async def look(surroundings):
        what = f"{surroundings.running} {surroundings.sessions} {surroundings.workspace}"
        return [Finding(verdict=Verdict.WARNING, what=what, fix="sweep")]

    async def fail(surroundings):
        raise RelaykitError("too dark")

    async def hang(surroundings):
        await anyio.sleep_forever()

    async def leak(surroundings):
        await anyio.create_task_group().__aenter__()
        return []

    async def shrug(surroundings):
        pass

    @hookimpl
    def relaykit_register_checks(context):
        looks = {"roof": leak, "hall": shrug, "dust": look, "cellar": fail, "attic": hang}
        return [Check(name=name, look=look) for name, look in looks.items()]
"""


def test_checks_of_plugins(
    site: Site, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaykit.commands.examination._SECONDS", 0.1)
    site.install("broom", LOOKING)
    (work / "relaykit.toml").write_text(f"{STATE}storage = 'memory'\n")
    code, found = examined(capsys)
    assert code == 1
    assert [(each["check"], each["what"]) for each in found[-5:-3]] == [
        ("roof", "it could not be looked at: it left a task group or a cancel scope open"),
        ("hall", "it could not be looked at: it returned None, where a list of Finding was asked for"),
    ]
    assert found[-3:] == [
        {"check": "dust", "verdict": "warning", "what": "False {} in_place", "fix": "sweep"},
        {"check": "cellar", "verdict": "trouble", "what": "it could not be looked at: too dark", "fix": ""},
        {
            "check": "attic",
            "verdict": "trouble",
            "what": "it could not be looked at within 0.1 s",
            "fix": "",
        },
    ]


def test_checks_that_cannot_be_registered(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install(
        "broom",
        "from relaykit.hooks import hookimpl\n\n@hookimpl\ndef relaykit_register_checks():\n    return ['dust']\n",
    )
    code, found = examined(capsys)
    assert code == 1
    assert any("'broom'" in what for verdict, what in lines_of(found, "plugins") if verdict == "trouble")


def test_help_loads_no_event_loop(capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from relaykit.commands import main; main(['doctor', '--help']); "
        "assert 'anyio' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert capsys.readouterr().err == ""
