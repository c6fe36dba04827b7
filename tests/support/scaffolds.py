"""Packages as ``relaykit new-plugin`` writes them; and what somebody may have written in them since."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

KINDS = ("storage", "cleaner", "launcher", "workspace", "hooks")

NOT_WRITTEN = "is not written yet"
"""What everything says that the author of a new plugin has still to write."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a run of pytest went.

    :param failed: each test that did not pass, by ``Class.test[loop]``, and all that was said about it.
    """

    passed: Sequence[str]
    failed: Mapping[str, str]
    output: str


def run_pytest(python: Path | str, *arguments: str, cwd: Path, **variables: str) -> Report:
    """Run pytest with the plugins that its arguments name, and anyio's."""
    report = cwd / "report.xml"
    done = subprocess.run(
        [str(python), "-m", "pytest", "-p", "anyio", f"--junitxml={report}", "--tb=short", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONSAFEPATH": "1",  # what is installed is tested, not what lies here
            **variables,
        },
    )
    output = done.stdout + done.stderr
    assert report.is_file(), output
    passed, failed = [], {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.attrib['classname'].rpartition('.')[2]}.{case.attrib['name']}"
        troubles = [*case.iterfind("failure"), *case.iterfind("error")]
        if troubles:
            failed[name] = "".join(f"{trouble.get('message')}\n{trouble.text}" for trouble in troubles)
        elif case.find("skipped") is None:
            passed.append(name)
    return Report(passed, failed, output)


def announce(package: Path) -> None:
    """Have a package count as installed where its directory is on the path, without having it built."""
    name = package.name.removeprefix("relaykit-")
    module = package.name.replace("-", "_")
    info = package / f"{module}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[relaykit]\n{name} = {module}\n[relaykit.api]\n{name} = v1\n")


def write_everything(package: Path) -> None:
    """Write what a new package has still to have written: files in place of skeletons, and fixtures."""
    module = package / package.name.replace("-", "_")
    plugin = package.name.removeprefix("relaykit-")
    name = "".join(part.capitalize() for part in plugin.split("-"))
    for file, code in _WRITTEN.items():
        if (module / file).exists():
            (module / file).write_text(code.replace("NAME", name).replace("PLUGIN", plugin))
    for test in (package / "tests").glob("*.py"):
        text = test.read_text()
        for fixture, code in _FIXTURES.items():
            unwritten = rf"raise NotImplementedError\(\s*\"`{fixture}` .*?\n            \)"
            text = re.sub(unwritten, code.replace("MODULE", module.name), text, flags=re.DOTALL)
        test.write_text(text)
    left = [path.name for path in package.rglob("*.py") if NOT_WRITTEN in path.read_text()]
    assert not left, left


def python_path(packages: Iterable[Path]) -> str:
    """Return a PYTHONPATH of these directories."""
    return os.pathsep.join(map(str, packages))


PYTHON = sys.executable

_WRITTEN = {
    "cleaner.py": """
from pathlib import Path

from relaykit.session import CleanerResult, Handle, Outcome, Phase, Session


class NAMECleaner:
    name = "PLUGIN"
    phase = Phase.AFTER

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        if "file" not in session.resources:
            return CleanerResult(self.name, Outcome.SKIPPED)
        Path(session.resources["file"]["path"]).unlink(missing_ok=True)
        return CleanerResult(self.name, Outcome.DONE)
""",
    "workspace.py": "from relaykit.agent import DirectoryWorkspace as NAMEWorkspace\n\n__all__ = ['NAMEWorkspace']\n",
    "store.py": """
from relaykit.session import MemoryStore


class NAMEStore(MemoryStore):
    durable = False
""",
    "journal.py": "from relaykit.conversation import MemoryJournal as NAMEJournal\n\n__all__ = ['NAMEJournal']\n",
    "agent.py": "from relaykit.testing import FakeAgent as NAMEAgent\n\n__all__ = ['NAMEAgent']\n",
    "launcher.py": """
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relaykit.agent import AgentLauncher
from relaykit.testing import FakeLauncher

OPENED: list[FakeLauncher] = []


@asynccontextmanager
async def open_launcher() -> AsyncIterator[AgentLauncher]:
    OPENED.append(FakeLauncher())
    async with OPENED[-1].open() as launcher:
        yield launcher
""",
}
"""What the skeletons are replaced by, wherever there is one of this name."""

_FIXTURES = {
    "acquire": """from uuid import uuid4

            from relaykit.testing import make_session

            path = Path(__file__).with_name(str(uuid4()))
            path.touch()
            return make_session(path.name, resources={"file": {"path": str(path)}})""",
    "is_released": """return not Path(session.resources["file"]["path"]).exists()""",
    "is_gone": """from MODULE.launcher import OPENED

            agents = [agent for launcher in OPENED for agent in launcher.agents]
            return all(agent.closed for agent in agents if agent.session.id == session.id)""",
}
"""The same for the fixtures of tests."""
