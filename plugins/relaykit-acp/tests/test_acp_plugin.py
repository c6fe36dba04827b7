from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import relaykit_acp
from relaykit.errors import SpawnError
from relaykit.hooks.registration import PluginContext
from relaykit.meter import NO_METER
from relaykit.session.cleaner import Phase
from relaykit.testing import FakeClock, FakeIds
from relaykit_acp import echo_agent
from relaykit_acp.finding import ECHO
from relaykit_acp.settings import AcpSettings

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def context(tmp_path: Path) -> PluginContext:
    return PluginContext(
        name="acp",
        settings=AcpSettings(known_agents=False),
        projects={},
        agents={},
        state_dir=tmp_path,
        node="n1",
        clock=FakeClock(),
        ids=FakeIds(),
        meter=NO_METER,
    )


def test_it_offers_settings_the_echo_agent_a_launcher_and_a_cleaner(context: PluginContext) -> None:
    assert relaykit_acp.relaykit_register_settings() is AcpSettings
    (echo,) = relaykit_acp.relaykit_register_agents(context).values()
    assert (echo.name, echo.launcher) == ("echo", "acp")
    assert list(relaykit_acp.relaykit_register_launchers(context)) == ["acp"]
    (cleaner,) = relaykit_acp.relaykit_register_cleaners(context)
    assert (cleaner.name, cleaner.phase) == ("acp", Phase.AGENT)


@pytest.mark.anyio
async def test_its_launcher_opens(context: PluginContext) -> None:
    factory = relaykit_acp.relaykit_register_launchers(context)["acp"]
    async with factory() as launcher:
        assert (await launcher.profile(ECHO))["protocolVersion"] == 1


def test_listing_plugins_imports_nothing_heavy() -> None:
    code = (
        "import sys, relaykit_acp; relaykit_acp.relaykit_register_settings(); print('msgspec' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    assert said.stdout == b"False\n"


def test_the_echo_agent_needs_the_standard_library_alone() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    subprocess.run(
        [sys.executable, "-ISc", code, echo_agent.__file__], stdin=subprocess.DEVNULL, check=True, timeout=30
    )


def test_the_readme_has_every_way_not_to_start() -> None:
    readme = README.read_text()
    for kind in SpawnError.__subclasses__():
        assert f"| `{kind.__name__}` |" in readme


def test_the_readme_has_every_directive_and_flag_of_the_echo_agent() -> None:
    readme = README.read_text()
    documented = re.findall(r"^``([/-].*?)``", echo_agent.__doc__ or "", re.MULTILINE)
    assert len(documented) > 25
    for word in documented:
        assert f"| `{word}` |" in readme
    agent = echo_agent.Echo([])
    assert {word.split()[0] for word in documented if word.startswith("/")} >= set(agent._directives)
