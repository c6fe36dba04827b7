"""The table of all metrics, from the objects: ``python -m relaykit_prometheus.reference [--write README.md]``.

A relay is opened with every plugin that is installed, and what its meter knows then is what the table says. With
``--write`` the lines between the two marks of a file are replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from relaykit.errors import RelaykitError
from relaykit.hooks.loader import load_plugins
from relaykit.meter import FIGURES, Figure, FigureKind
from relaykit.relay import open_relay
from relaykit.settings import load_settings
from relaykit.testing.reference import labels_of, markdown_table
from relaykit_prometheus import PrometheusPlugin
from relaykit_prometheus.meter import buckets_of, name_of
from relaykit_prometheus.metrics import BUILD_INFO

BEGIN, END = "<!-- all metrics -->", "<!-- /all metrics -->"

_SETTINGS = """
[relay]
storage = "memory"
workspace = "in_place"
disabled = ["prometheus"]  # one of our own stands in for it
[plugins.acp]
known_agents = false
"""


async def known_figures() -> Sequence[Figure]:
    """Return the figures of relaykit and of the installed plugins, as a relay's meter knows them at its start."""
    ours = PrometheusPlugin()
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        config = directory / "relaykit.toml"
        config.write_text(_SETTINGS)
        settings = load_settings(config, environ={"HOME": scratch}, cwd=directory)
        async with open_relay(settings, plugins=load_plugins(settings, extra={"reference": ours})):
            figures = ours.metrics.meter.figures
    return [*FIGURES, *sorted(set(figures) - set(FIGURES), key=lambda figure: figure.name)]


def table(figures: Sequence[Figure]) -> str:
    """Return the table, as Markdown."""
    name, help_, label = BUILD_INFO
    return markdown_table(
        [
            ("name", "type", "labels", "what it says"),
            *((f"`{name_of(figure)}`", _type(figure), labels_of(figure), figure.help) for figure in figures),
            (f"`{name}`", "gauge", f"`{label}`", help_),
        ]
    )


def with_table(text: str, figures: Sequence[Figure]) -> str:
    """Return the text with this table between its marks.

    :raises RelaykitError: there are no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RelaykitError(f"there is no {BEGIN} … {END} to write the table to")
    return f"{before}{begin}\n{table(figures)}\n{end}{after}"


def _type(figure: Figure) -> str:
    if figure.kind is not FigureKind.HISTOGRAM:
        return figure.kind
    buckets = buckets_of(figure)
    return f"histogram, {buckets[0]:g} … {buckets[-1]:g}"


def main() -> None:
    """Print the table, or write it to a file."""
    parser = argparse.ArgumentParser(prog="python -m relaykit_prometheus.reference", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    path: Path | None = parser.parse_args().write
    figures = anyio.run(known_figures)
    if path is None:
        print(table(figures))  # noqa: T201 -- a command prints
    else:
        path.write_text(with_table(path.read_text(), figures))


if __name__ == "__main__":
    main()
