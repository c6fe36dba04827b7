"""Reference tables: those of our READMEs are what the objects say, and marks that are wrong are errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from relaykit.errors import RelaykitError
from relaykit.settings import RelaySettings
from relaykit.testing.reference import with_tables

ROOT = Path(__file__).resolve().parents[2]
READMES = [ROOT / "README.md", *sorted((ROOT / "plugins").glob("*/README.md"))]
REWRITE = (
    "OTEL_TRACES_EXPORTER=console uv run python -m relaykit.testing.reference README.md plugins/*/README.md"
)


@pytest.fixture(autouse=True)
def _all_of_otel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")  # without, it has no hooks worth a table


def marks(text: str) -> set[str]:
    return set(re.findall(r"^<!-- ((?:settings|hooks|metrics).*) -->$", text, re.MULTILINE))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_our_readmes_say_what_the_objects_say(readme: Path) -> None:
    text = readme.read_text()
    assert with_tables(text) == text, f"it is stale; to rewrite it: {REWRITE}"


@pytest.mark.parametrize("readme", READMES[1:], ids=lambda path: path.parent.name)
def test_each_plugins_readme_has_its_tables(readme: Path) -> None:
    name = readme.parent.name.removeprefix("relaykit-")
    package = readme.parent / f"relaykit_{name}"
    wanted = {f"hooks: {name}"}
    if (package / "settings.py").exists():
        wanted.add(f"settings: [plugins.{name}]")
    for path in package.rglob("*.py"):
        if re.search(r"^[A-Z_]+ = Figure\(", path.read_text(), re.MULTILINE):
            wanted.add(f"metrics: {'.'.join(path.relative_to(readme.parent).with_suffix('').parts)}")
    assert wanted <= marks(readme.read_text())


def test_our_own_has_all_of_cores() -> None:
    tables = {"[relay]", "[projects.NAME]", "[agents.NAME]", "[[permissions]]"}
    assert marks((ROOT / "README.md").read_text()) == {
        "hooks",
        *(f"settings: {table}" for table in tables),
    }


def test_a_table_is_written_between_its_marks_and_nothing_else_is_changed(tmp_path: Path) -> None:
    before = (
        "# one `<!-- hooks -->`\n\n<!-- settings: [relay] -->\nold | stuff\n<!-- /settings -->\n\n| two |\n"
    )
    files = [tmp_path / "one.md", tmp_path / "two.md"]
    for file in files:
        file.write_text(before)
    command = [sys.executable, "-m", "relaykit.testing.reference", *map(str, files)]
    subprocess.run(command, check=True, timeout=60)
    for file in files:
        lines = file.read_text().splitlines()
        assert lines[:5] == [
            "# one `<!-- hooks -->`",
            "",
            *before.splitlines()[2:3],
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        assert lines[-3:] == ["<!-- /settings -->", "", "| two |"]
        assert [line.split("`")[1] for line in lines[5:-3]] == list(RelaySettings.__dataclass_fields__)
        assert '| `node` | `"local"` | this relay\'s name among several |' in lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- settings: [relay] -->\n", "no other half"),
        ("<!-- /hooks -->\n", "no other half"),
        (
            "<!-- settings: [relay] -->\n<!-- hooks -->\n<!-- /settings -->\n<!-- /hooks -->\n",
            "no other half",
        ),
        ("<!-- settings -->\n<!-- /settings -->\n", "there is no settings ''"),
        (
            "<!-- settings: [plugins.apc] -->\n<!-- /settings -->\n",
            r"no settings '\[plugins.apc\]'.*plugins.acp",
        ),
        ("<!-- metrics: relaykit.metre -->\n<!-- /metrics -->\n", "no module 'relaykit.metre'"),
        ("<!-- hooks: gatway -->\n<!-- /hooks -->\n", "no plugin 'gatway'.*'gateway'"),
    ],
)
def test_a_wrong_mark_is_an_error_and_the_file_stays_as_it_was(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RelaykitError, match=said):
        with_tables(text)
    file = tmp_path / "README.md"
    file.write_text(text)
    command = [sys.executable, "-m", "relaykit.testing.reference", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search(said, done.stderr)
    assert str(file) in done.stderr
    assert file.read_text() == text
