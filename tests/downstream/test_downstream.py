"""Plugins as strangers have them: wheels beside those of relaykit, in an environment with nothing of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from support.scaffolds import KINDS, NOT_WRITTEN, run_pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
YESTERDAY = Path(__file__).parent / "plugins_of_0_1"
CORE = [
    ROOT,
    *(ROOT / "plugins" / f"relaykit-{name}" for name in ("acp", "gateway", "prometheus", "worktree")),
]
"""What the packages need, and what the newcomer has."""

NEEDED = ("anyio[trio]>=4.16", "pytest>=9")


@dataclass(frozen=True, slots=True)
class Site:
    """A clean environment, and the directories of the packages that were built and installed there.

    :param offline: uv needs no network for it.
    """

    venv: Path
    wheels: Path
    packages: Path
    offline: bool

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Build everything as wheels, and install those."""
    root = tmp_path_factory.mktemp("downstream")
    packages, wheels, venv = root / "packages", root / "wheels", root / "venv"
    shutil.copytree(YESTERDAY, packages, ignore=shutil.ignore_patterns("__pycache__"))
    for kind in KINDS:
        run(
            sys.executable, "-m", "relaykit", "new-plugin", f"my-{kind}", f"--{kind}", "--directory", packages
        )
    (packages / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["relaykit-*"]\n')
    build = ("uv", "build", "--quiet", "--wheel", "--out-dir", wheels)
    for source in CORE:
        online_if_need_be(partial(run, *build, source))
    online_if_need_be(partial(run, *build, "--all-packages", cwd=packages))
    run("uv", "venv", "--quiet", "--python", sys.executable, venv)
    install = partial(run, "uv", "pip", "install", "--quiet", "--python", venv, *NEEDED)
    offline = online_if_need_be(partial(install, *sorted(wheels.glob("*.whl"))))
    for package in packages.glob("relaykit-*"):
        shutil.rmtree(package / package.name.replace("-", "_"))  # what is tested is what is installed
    return Site(venv, wheels, packages, offline)


def online_if_need_be(command: Callable[..., object]) -> bool:
    """Run it offline, from uv's cache; or else online. Tell whether that was not needed."""
    try:
        command("--offline")
    except AssertionError:
        command()
        return False
    return True


def test_their_own_suites_pass_there(site: Site) -> None:
    """Those of yesterday's plugins, beside today's relaykit; and of new ones all but what is not written yet."""

    def run_one(package: Path) -> tuple[set[str], set[str]]:
        report = run_pytest(site.python, "--tb=line", cwd=package)
        other = {name: said for name, said in report.failed.items() if NOT_WRITTEN not in said}
        assert other == {}, report.output
        both = [*report.passed, *report.failed]
        assert {name.replace("trio", "asyncio") for name in both} <= set(both)
        assert {name.replace("asyncio", "trio") for name in both} <= set(both)
        return set(report.passed), set(report.failed)

    packages = sorted(site.packages.glob("relaykit-*"))
    with ThreadPoolExecutor(2) as pool:
        reports = dict(zip((package.name for package in packages), pool.map(run_one, packages), strict=True))

    for name in ("relaykit-timesheet", "relaykit-attic", "relaykit-my-hooks"):
        passed, failed = reports.pop(name)
        assert (len(passed) >= 4, failed) == (True, set())
    assert {name: passed for name, (passed, _) in reports.items()} == {
        "relaykit-my-cleaner": on_both_loops("TestMyCleanerCleaner.test_it_has_a_name_and_a_phase"),
        "relaykit-my-launcher": set(),
        "relaykit-my-storage": set(),
        "relaykit-my-workspace": set(),
    }


def on_both_loops(name: str) -> set[str]:
    return {f"{name}[asyncio]", f"{name}[trio]"}


def test_nothing_of_the_checkout_is_there(site: Site) -> None:
    where = "import relaykit, relaykit_attic; print(relaykit.__file__, relaykit_attic.__file__)"
    shown = run(site.python, "-c", where, cwd=site.packages, PYTHONSAFEPATH="1").split()
    assert len(shown) == 2
    assert all(path.startswith(str(site.venv)) for path in shown)


def readme_commands() -> list[str]:
    (section,) = re.findall(
        r"^## Writing a plugin\n.*?```console\n(.*?)```",
        (ROOT / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return [line.removeprefix("$ ") for line in section.splitlines()]


def test_a_newcomers_path(site: Site, tmp_path: Path) -> None:
    """From nothing to a hook that is loaded, tested and works: what the README says, word for word."""
    commands = readme_commands()
    assert len(commands) <= 10
    said = run(
        *("bash", "-euc", "\n".join(f"echo '@@{number}'\n{line}" for number, line in enumerate(commands))),
        cwd=tmp_path,
        HOME=str(tmp_path),
        PATH=f"{site.venv / 'bin'}:{os.environ['PATH']}",
        VIRTUAL_ENV=str(site.venv),
        UV_CACHE_DIR=run("uv", "cache", "dir").strip(),
        UV_FIND_LINKS=str(site.wheels),
        UV_OFFLINE=str(int(site.offline)),
        RELAYKIT_PLUGINS__ACP__KNOWN_AGENTS="false",
    )
    outputs = dict(zip(commands, re.split(r"@@\d+\n", said)[1:], strict=True))
    shown = {line.split()[0] + " " + line.split()[1]: output for line, output in outputs.items()}
    assert re.search(r"^=+ 4 passed in ", shown["pytest #"], re.MULTILINE), said
    assert re.search(
        r"^pager +0\.1\.0 +loaded +check_prompt, on_transition", shown["relaykit plugins"], re.MULTILINE
    ), said
    for state in ("CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED"):
        assert f"pager: demo is {state}\n" in shown["relaykit demo"], said
