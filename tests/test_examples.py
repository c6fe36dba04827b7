"""Each example runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.servers import relay

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ, **environ},
    )
    assert done.stderr == ""
    return done.stdout


def test_walkthrough() -> None:
    taken, invalid, illegal, *said = run("walkthrough.py").splitlines()
    assert taken.startswith("the role 'auth' of project 'default' is already played by session ")
    assert invalid.startswith("'../auth' is not a valid agent id: ")
    assert illegal.endswith(" is ACTIVE: SPAWN is not possible in that state")
    assert said == ["1", "['close_agent: DONE', 'close_connection: DONE']"]


def test_the_walkthrough_calls_all_that_the_manager_is_for() -> None:
    called = set(re.findall(r"\bmanager\.(\w+)\(", (EXAMPLES / "walkthrough.py").read_text()))
    assert called == {
        *("create", "begin_spawn", "attach_agent", "mark_terminating", "complete_cleanup"),
        *("record_heartbeat", "increment_message_count"),
        *("get", "get_by_role", "list", "count"),
    }


def test_no_example_is_forgotten() -> None:
    """Those for deployments are tested where such servers are."""
    tests = [Path(__file__), *EXAMPLES.parent.glob("plugins/*/tests/*.py")]
    said = "".join(path.read_text() for path in tests)
    assert [path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name not in said] == []


def test_echo_messages() -> None:
    assert run("echo_messages.py") == "connection:established\nsession:create auth True\n"


def test_scripted_session() -> None:
    with relay() as server:
        url = server.url.replace("ws://", "http://").removesuffix("/ws")
        token = server.headers["Authorization"].removeprefix("Bearer ")
        said = run("scripted_session.py", url, "/ask", RELAYKIT_TOKEN=token)
    assert said == "permission: yes\n(end_turn)\n"


def test_policy_hook() -> None:
    assert run("policy_hook.py") == "refused by plugin 'no_keys': that is a private key\n"


def test_custom_cleaner() -> None:
    assert run("custom_cleaner.py").startswith("auth: REQUESTED, ")


def test_custom_storage() -> None:
    assert run("custom_storage.py") == "stored auth (CREATED)\nforgot it\n"


def test_embedded() -> None:
    assert run("embedded.py").splitlines() == [
        "welcome",
        "401",
        "{'sessions': []}",
        "['shop_visits_total', 'relaykit_sessions']",
    ]
