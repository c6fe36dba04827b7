"""Figures: what was measured, beside its reference and what was aimed for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One row of the table.

    :param reference: the same, measured in the same run on something bare; None where there is none.
    :param target: what is aimed for: of `value`, or of its ratio to the reference.
    :param paired_ratio: the median of each turn's own ratio, where the speed of the machine changes from turn to turn:
        two medians are then of different turns.
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    reference_name: str = ""
    target: str = ""
    met: bool | None = None
    paired_ratio: float | None = None

    @property
    def ratio(self) -> float | None:
        if self.paired_ratio is not None:
            return self.paired_ratio
        return self.value / self.reference if self.reference else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def print_table(figures: Sequence[Figure]) -> None:
    rows = [("", "relaykit", "", "reference", "ratio", "aim", "")]
    for figure in figures:
        ratio = f"{figure.ratio:.2f}" if figure.ratio else ""
        reference = f"{_shown(figure.reference)} {figure.reference_name}" if figure.reference else ""
        met = {True: "met", False: "MISSED", None: ""}[figure.met]
        rows.append((figure.name, _shown(figure.value), figure.unit, reference, ratio, figure.target, met))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in {1, 4} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
