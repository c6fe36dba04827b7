"""Each example runs as it stands."""

import os
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
    assert run("walkthrough.py") == "['close_agent: DONE', 'close_connection: DONE']\n"


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
