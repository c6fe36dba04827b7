"""An editor through `relaykit connect`, whose network is gone for long in the midst of a turn.

``RELAYKIT_CUT_SECONDS`` says for how long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import connecting
from support.connecting import ConnectEditor, connect_editor
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.servers import relay

CUT = float(os.environ.get("RELAYKIT_CUT_SECONDS", "2"))
COUNT = 20_000

pytestmark = pytest.mark.timeout(120 + 4 * CUT)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "SECONDS", connecting.SECONDS + 2 * CUT)


@contextmanager
def network(directory: Path) -> Iterator[tuple[CuttingProxy, ConnectEditor]]:
    """Start a relay with a storage that survives, and an editor behind a network."""
    with cutting_proxy() as proxy:
        # A relay has to know by which names it is called.
        (directory / "relaykit.toml").write_text(f'[plugins.gateway]\npublic_url = "{proxy.url}"\n')
        with relay(project=directory, storage="sqlite") as server:
            proxy.forward_to(server.url)
            token = server.headers["Authorization"].removeprefix("Bearer ")
            with connect_editor(proxy.url, RELAYKIT_TOKEN=token) as editor:
                try:
                    yield proxy, editor
                finally:
                    proxy.restore()


def numbers(editor: ConnectEditor) -> list[str]:
    return [chunk[:7] for chunk in editor.chunks()]


def test_a_turn_goes_on_and_ends_while_the_network_is_cut(tmp_path: Path) -> None:
    with network(tmp_path) as (proxy, editor):
        session_id = editor.open_session()
        proxy.cut_after(b"0000500 ")
        prompt = editor.prompt(session_id, f"/stream {COUNT} 60")
        proxy.wait_cut()
        time.sleep(CUT)  # that is what is shown
        proxy.restore()
        assert editor.hear_answer(prompt)["result"]["stopReason"] == "end_turn"
        assert numbers(editor) == [f"{number:07}" for number in range(COUNT)]
        again = editor.prompt(session_id, "hello")
        editor.hear_answer(again)
        assert editor.chunks()[COUNT:] == ["hello"]
        assert editor.chunks("user_message_chunk") == []
        assert (editor.answers(prompt), editor.answers(again)) == (1, 1)


@pytest.mark.parametrize("dead", [False, True], ids=["cut", "dead"])
def test_a_turn_outlasts_a_network_that_is_gone(tmp_path: Path, *, dead: bool) -> None:
    with network(tmp_path) as (proxy, editor):
        session_id = editor.open_session()
        first = editor.prompt(session_id, "/stream 300 60")
        second = editor.prompt(session_id, f"/sleep {CUT + 1:g}")
        third = editor.prompt(session_id, "/stream 300 60")
        editor.hear_answer(first)
        (proxy.stall if dead else proxy.cut)()
        time.sleep(CUT)  # that is what is shown
        proxy.restore()
        editor.hear_answer(second)
        editor.hear_answer(third)
        stream = [f"{number:07}" for number in range(300)]
        assert numbers(editor) == [*stream, "slept", *stream]
        assert editor.chunks("user_message_chunk") == []
        assert [editor.answers(prompt) for prompt in (first, second, third)] == [1, 1, 1]
