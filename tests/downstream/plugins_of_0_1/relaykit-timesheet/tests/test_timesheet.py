"""The timesheet of a session in which everything happens that can be heard of."""

from __future__ import annotations

from pathlib import Path

import pytest
from relaykit_timesheet import Timesheet

from relaykit.hooks import AccessRefused, Surroundings, hookimpl
from relaykit.session import CleanerResult, Handle, Phase, Session
from relaykit.testing import FakeClock, FakeLauncher, FakeTurn, installed_plugin, open_talk, open_test_relay


class Clumsy:
    """A plugin whose cleaner fails."""

    name = "clumsy"
    phase = Phase.AFTER

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        raise OSError("it slipped")

    @hookimpl
    def relaykit_register_cleaners(self) -> list[Clumsy]:
        return [self]


async def script(turn: FakeTurn) -> None:
    if turn.text == "ask":
        await turn.ask()
    await turn.say(turn.text)


@pytest.mark.anyio
async def test_everything_is_written_down(tmp_path: Path) -> None:
    sheet, clock = Timesheet(), FakeClock()
    toml = '[relay]\ncleaners = ["clumsy"]\n[plugins.timesheet]\ncompany = "Initech"\n'
    plugins = {"timesheet": sheet, "clumsy": Clumsy()}
    async with open_test_relay(
        tmp_path, plugins=plugins, toml=toml, launcher=FakeLauncher(script), clock=clock
    ) as relay:
        assert sheet.serving is relay
        assert [route.path for route in relay.routes] == ["/timesheet"]
        assert [message.name for message in relay.messages] == ["timesheet:read"]
        refusal = AccessRefused(where="/acp", address="::1", status=401, reason="no token", at=clock.now())
        await relay.tell_refused(refusal)
        async with open_talk(relay, "auth", client_id="me") as talk:
            turn = await talk.begin("ask")
            question = await talk.question()
            clock.advance(2)
            await talk.choose(question, "yes")
            await talk.answer_to(turn)
            await relay.call(talk.session_id, "session/set_mode", b'{"modeId":"x"}', client_id="me", ref="r1")
            await talk.until(lambda entry: entry.frame.kind == "RESULT")
            await talk.end("enough")
    assert sheet.serving is None
    assert sheet.company == "Initech on local, as timesheet"
    assert sheet.figures.totals["session_transitions"] == 5
    for line in (
        "refused /acp ::1 401 no token",
        "- None CREATED None None",
        "CREATED SPAWN SPAWNING None None",
        "SPAWNING ACTIVATE ACTIVE None None",
        "ACTIVE TERMINATE TERMINATING REQUESTED enough",
        "TERMINATING CLEAN CLEANED REQUESTED enough",
        "in me test local 0 controller me",
        "out me test controller me",
        "turn auth me-1 me me",
        "asked auth REQUEST session/request_permission",
        "answered me answered 2.0  me",
        "over auth me-1 done 2.0",
        'call auth session/set_mode b\'{"modeId":"x"}\' me me',
        'said auth me-1 b\'{"prompt": [{"type": "text", "text": "ask"}]}\'',
        "cleanup auth clumsy FAILED OSError: it slipped",
    ):
        assert line in sheet.lines, sheet.lines


@pytest.mark.anyio
async def test_what_it_registers_besides(tmp_path: Path) -> None:
    sheet = Timesheet()
    async with open_test_relay(tmp_path, plugins={"timesheet": sheet}) as relay:
        commands = relay.plugins.commands()
        assert commands["timesheet"].plugin == "timesheet"
        [record] = [record for record in relay.plugins.records if record.name == "timesheet"]
        assert (record.state, len(record.hooks)) == ("loaded", 18)
    assert relay.settings.state_dir.is_relative_to(tmp_path)


def test_it_is_announced() -> None:
    assert installed_plugin("timesheet") is Timesheet


@pytest.mark.anyio
async def test_the_doctor_is_told() -> None:
    around = Surroundings(running=False, sessions=None, workspace="directory")
    assert (around.running, around.sessions, around.workspace) == (False, None, "directory")
