"""The README is held to the objects."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from relaykit.errors import RelaykitError
from relaykit_prometheus import reference
from relaykit_prometheus.assets import NAMES

README = Path(__file__).parent.parent / "README.md"

REWRITE = f"uv run python -m relaykit_prometheus.reference --write {README.relative_to(README.parents[2])}"


def rows_under(heading: str) -> Iterator[list[str]]:
    _, _, section = README.read_text().partition(f"\n## {heading}\n")
    table = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    for line in table[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_of_metrics_is_what_the_objects_say(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text())
    command = [sys.executable, "-m", "relaykit_prometheus.reference"]
    subprocess.run([*command, "--write", copy], check=True, timeout=60)
    assert copy.read_text() == README.read_text(), f"it is stale; to rewrite it: {REWRITE}"
    copy.write_text("no marks")
    with pytest.raises(RelaykitError, match="there is no"):
        reference.with_table(copy.read_text(), [])


def test_every_figure_that_is_declared_is_known_and_has_its_help_and_labels() -> None:
    figures = anyio.run(reference.known_figures)
    root = README.parents[2]
    sources = [root / "relaykit" / "meter.py", *root.glob("plugins/relaykit-*/relaykit_*/**/*.py")]
    declared = {name for path in sources for name in re.findall(r'\bFigure\(\s*"(\w+)"', path.read_text())}
    assert declared == {figure.name for figure in figures}
    for row in reference.table(figures).splitlines():
        assert row.count("|") == 5, row


def test_the_files_are_named() -> None:
    assert [name.strip("`") for name, _ in rows_under("Dashboard and rules")] == list(NAMES)
