"""`relaykit connect`, while the relay is restarted: for the editor it is a slow agent."""

from __future__ import annotations

from pathlib import Path

from support.connecting import connect_editor
from support.programs import Place, serving


def test_a_relay_that_restarts_is_a_slow_agent(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with serving(place) as first, connect_editor(**place.environment()) as editor:
        session_id = editor.open_session()
        assert editor.hear_answer(editor.prompt(session_id, "before"))["result"]["stopReason"] == "end_turn"
        running = editor.prompt(session_id, "/ask")
        editor.hear_call("session/request_permission")
        first.process.terminate()
        assert "interrupted: the relay is shutting down" in editor.hear_answer(running)["error"]["message"]
        assert first.exit_code() == 0
        waiting = editor.prompt(session_id, "meanwhile")  # said to nobody yet
        with serving(place):
            assert editor.hear_answer(waiting)["result"]["stopReason"] == "end_turn"
            assert (
                editor.hear_answer(editor.prompt(session_id, "after"))["result"]["stopReason"] == "end_turn"
            )
            assert editor.chunks() == ["before", "meanwhile", "after"]
            assert editor.chunks("user_message_chunk") == []
            assert not [message for message in editor.heard if "_relaykit/" in message.get("method", "")]
            editor.ask("session/close", sessionId=session_id)
            editor.end_input()
            assert editor.exit_code() == 0
    assert place.processes() == []
