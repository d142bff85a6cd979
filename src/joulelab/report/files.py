"""Figures as files: SVG, PNG, PDF and CSV."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from joulelab.findings.files import write_bytes
from joulelab.report.drawing import Drawers, Drawing
from joulelab.report.figure import INNER, Choice, Figure
from joulelab.report.scopes import Scope
from joulelab.report.theme import CONFIG, QUANTITIES

FORMATS = ("svg", "png", "pdf")


@dataclass(frozen=True, slots=True)
class Sheet:
    """One view of a figure.

    Attributes:
        figure: The figure's name.
        name: Of its file, without ending.
        heading: What is shown, as ``"Training"``; may be empty.
        specification: Vega-Lite with its data and configuration.
    """

    figure: str
    name: str
    heading: str
    specification: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """A sheet that was drawn.

    Attributes:
        sheet: What it shows.
        content: Its bytes in each format.
    """

    sheet: Sheet
    content: Drawing

    @property
    def address(self) -> str:
        """The drawing as an address that needs no network."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.content['svg']).decode()}"


def pictures(sheets: Sequence[Sheet], drawers: Drawers) -> list[Picture]:
    """The sheets, drawn.

    Raises:
        StoreError: They cannot be drawn.
    """
    drawings = drawers.draw([sheet.specification for sheet in sheets])
    return [Picture(sheet, one) for sheet, one in zip(sheets, drawings, strict=True)]


def sheets_of(figure: Figure, scope: Scope, stem: str = "") -> list[Sheet]:
    """Each panel and level of a figure for one scope, net of idle where that is known.

    A level without rows gives no sheet. Of runs, only the first one's trace becomes a file.

    Args:
        figure: What to draw.
        scope: Which models.
        stem: Goes before each name.
    """
    general = {"scope": scope.key, "family": scope.family}
    for quantity, title in QUANTITIES.items():
        found = list(_levels(figure, general | {"quantity": quantity}, {"quantity": title}, stem))
        if found:
            return found
    return []


def _levels(
    figure: Figure, chosen: Mapping[str, str], called: Mapping[str, str], stem: str
) -> Iterator[Sheet]:
    choices = [*figure.choices, *([figure.panels] if figure.panels else [])]
    for levels in product(*(_shown_levels(choice) for choice in choices)):
        picked = {choice.column: level for choice, level in zip(choices, levels, strict=True)}
        if figure.shown({**chosen, **picked}).empty:
            continue
        titles = {choice.column: choice.levels[picked[choice.column]] for choice in choices}
        parts = [
            level
            for choice, level in zip(choices, levels, strict=True)
            if len(choice.levels) > 1 and choice.column != "run"
        ]
        made = figure.specification({**chosen, **picked}, {**titles, **called})
        yield Sheet(
            figure=figure.name,
            name="-".join([f"{stem}{figure.name}", *parts]),
            heading=", ".join(titles.values()),
            specification=made | {"config": CONFIG},
        )


def _shown_levels(choice: Choice) -> list[str]:
    levels = list(choice.levels)
    return levels[:1] if choice.column == "run" else levels


def figure_files(
    directory: Path, figures: Sequence[Figure], drawn: Sequence[Picture]
) -> list[Path]:
    """Writes every picture as SVG, PNG and PDF, and the rows of every figure as CSV.

    Raises:
        StoreError: They cannot be written.
    """
    written = [
        write_bytes(directory / f"{picture.sheet.name}.{kind}", content)
        for picture in drawn
        for kind, content in picture.content.items()
    ]
    for figure in figures:
        rows = figure.table.drop(columns=[name for name in INNER if name in figure.table])
        text = rows.to_csv(index=False, lineterminator="\n")
        written.append(write_bytes(directory / f"{figure.name}.csv", text.encode()))
    return written
