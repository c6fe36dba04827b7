"""``relaykit new-plugin``: what it writes, and what it refuses to."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from relaykit.commands import main, scaffold
from relaykit.errors import RelaykitError
from support.scaffolds import KINDS, announce, python_path, run_pytest, write_everything

ROOT = Path(__file__).parents[2]
LONG = "x" * 23 + "9"
YESTERDAY = ROOT / "tests" / "downstream" / "plugins_of_0_1"


def everything_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "my-pager", "--hooks"]) == 0
    assert everything_in(tmp_path / "relaykit-my-pager") == [
        ".gitignore",
        "README.md",
        "conftest.py",
        "pyproject.toml",
        "relaykit_my_pager",
        "relaykit_my_pager/__init__.py",
        "relaykit_my_pager/py.typed",
        "tests",
        "tests/test_hooks.py",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["relaykit-my-pager"]
    assert capsys.readouterr().out.splitlines() == [
        "relaykit-my-pager: written; it goes on with",
        "  cd relaykit-my-pager",
        "  uv pip install --editable . --group dev",
        "  pytest",
    ]


def test_a_kind_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "pager"]) == 2
    assert "--storage --cleaner --launcher --workspace --hooks" in capsys.readouterr().err
    assert main(["new-plugin", "pager", "--hooks", "--cleaner"]) == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is no name for a plugin"),
        ("Pager", "is no name for a plugin: use up to 24 of a-z, 0-9 and, between them, '-'"),
        ("9lives", "is no name for a plugin"),
        ("my_pager", "is no name for a plugin"),
        ("-pager", "is no name for a plugin"),
        ("pager-", "is no name for a plugin"),
        ("my--pager", "is no name for a plugin"),
        ("../pager", "is no name for a plugin"),
        ("päger", "is no name for a plugin"),
        (LONG + "x", "is no name for a plugin"),
        ("relaykit-pager", "leave out 'relaykit': the plugin is called 'pager'"),
        ("relaykit", "is taken by relaykit itself"),
        ("memory", "is taken by relaykit's own storage"),
        ("acp", "is taken by 'relaykit-acp', which is installed"),
    ],
)
def test_names_that_cannot_be_used(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(RelaykitError) as caught:
        scaffold.write_package(name, "hooks", tmp_path)
    assert why in str(caught.value)
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    there = tmp_path / "relaykit-pager"
    if kind == "directory":
        there.mkdir()
    elif kind == "file":
        there.write_text("mine")
    else:
        there.symlink_to("nowhere")
    with pytest.raises(RelaykitError, match=r"there is a '.*relaykit-pager' already: remove it, or"):
        scaffold.write_package("pager", "hooks", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["relaykit-pager"]


def test_a_directory_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "pager", "--hooks", "--directory", str(tmp_path / "absent")]) == 2
    assert "absent' is not a directory: make it" in capsys.readouterr().err


def test_what_is_broken_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its first files it meets one that cannot be written: its directory is a file."""
    templates = tmp_path / "templates"
    shutil.copytree(scaffold._TEMPLATES, templates)
    (templates / "hooks" / "zz.template").touch()
    (templates / "hooks" / "zz").mkdir()
    (templates / "hooks" / "zz" / "file.template").touch()
    monkeypatch.setattr(scaffold, "_TEMPLATES", templates)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(RelaykitError, match=r"cannot write '.*relaykit-pager'"):
        scaffold.write_package("pager", "hooks", target)
    assert everything_in(target) == []


# ---------------------------------------------------------------- what is in it


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of each kind, with names of ordinary length."""
    directory = tmp_path_factory.mktemp("packages")
    return [scaffold.write_package(f"my-{kind}", kind, directory) for kind in KINDS]


def test_they_are_formatted_and_clean_whatever_their_names(tmp_path: Path, packages: list[Path]) -> None:
    for kind in KINDS:
        scaffold.write_package(f"{kind[0]}", kind, tmp_path)
        scaffold.write_package(f"{kind[0]}{LONG[1:]}", kind, tmp_path)
    for package in [*packages, *tmp_path.iterdir()]:  # each is a project of its own, with settings of its own
        for command in (["format", "--check"], ["check", "--extend-select", "I,E501,ANN,D2,UP,B,SIM,RUF"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, "."],
                cwd=package,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{package.name}: {done.stdout}{done.stderr}"


def test_they_and_yesterdays_pass_mypys_strict_checks(packages: list[Path]) -> None:
    directories = [*packages, *YESTERDAY.glob("relaykit-*")]
    files = [path for package in directories for path in package.rglob("*.py") if path.name != "conftest.py"]
    assert len(files) > 15
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file=",
            "--strict",
            "--cache-dir=/dev/null",
            *map(str, files),
        ],
        cwd=packages[0].parent,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MYPYPATH": python_path(directories)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_public_names_are_imported(packages: list[Path]) -> None:
    """To write and to test a plugin needs no private import; nor do the examples."""
    files = [
        path
        for directory in [*packages, *YESTERDAY.glob("relaykit-*"), ROOT / "examples"]
        for path in directory.rglob("*.py")
    ]
    assert len(files) > 15
    seen = {name for path in files for name in imported_of_relaykit(path)}
    assert "relaykit.testing.CleanerContract" in seen
    assert {name for name in seen if not is_public(name)} == set()


def test_the_rule_knows_what_is_private() -> None:
    assert is_public("relaykit.hooks.hookimpl")
    assert is_public("relaykit.errors.Refused")
    assert not is_public("relaykit.session.manager.Manager")
    assert not is_public("relaykit.hooks.loader.load_plugins")
    assert not is_public("relaykit.testing.fakes")


def imported_of_relaykit(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".", 1)[0] == "relaykit"]


def is_public(name: str) -> bool:
    """Tell whether a name is in the ``__all__`` of a package of relaykit, or in a module of its own beside those."""
    home, _, attribute = name.rpartition(".")
    if home.count(".") != 1:
        return False
    module = import_module(home)
    is_package = hasattr(module, "__path__")
    return attribute in getattr(module, "__all__", ()) if is_package else not attribute.startswith("_")


def test_once_everything_is_written_all_tests_pass(packages: list[Path], tmp_path: Path) -> None:
    """On both loops: the contracts can be kept, and the skeletons lead there. So does the README's example."""
    readme = tmp_path / "test_readme_example.py"
    (example,) = re.findall(
        r"```python\n([^`]*?open_talk.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    readme.write_text(example)
    written = []
    for package in packages:
        copy = tmp_path / package.name
        shutil.copytree(package, copy)
        (copy / "conftest.py").unlink()  # one run for all of them
        write_everything(copy)
        announce(copy)
        written.append(copy)
    report = run_pytest(
        sys.executable,
        *("-p", "relaykit.testing.fixtures", "--import-mode=importlib", "-W", "error", "-c", "/dev/null"),
        *(str(package / "tests") for package in written),
        str(readme),
        cwd=tmp_path,
        PYTHONPATH=python_path(written),
    )
    assert report.failed == {}, report.output
    assert len(report.passed) > 200
    assert "test_readme_example.test_a_question[trio]" in report.passed
    loops = [name.partition("[")[2].partition("-")[0].rstrip("]") for name in report.passed]
    assert loops.count("asyncio") == loops.count("trio") > 100
