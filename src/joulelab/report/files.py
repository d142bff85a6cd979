"""Figures as files: SVG, PNG, PDF and CSV."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import vl_convert

from joulelab.analysis.files import write_bytes
from joulelab.report.figure import INNER, Choice, Figure
from joulelab.report.scopes import Scope
from joulelab.report.theme import CONFIG, QUANTITIES

FORMATS = ("svg", "png", "pdf")
_PNG_SCALE = 3.0
_PDF_NAMES = re.compile(rb"(?:\n +/[a-z]+\d+ \d+ 0 R){2,}")


@dataclass(frozen=True, slots=True)
class Picture:
    """One view of a figure, drawn.

    Attributes:
        name: Of its file, without ending.
        heading: What is shown, as ``"Training"``; may be empty.
        svg: The drawing.
    """

    name: str
    heading: str
    svg: str


def pictures(figure: Figure, scope: Scope, stem: str = "") -> Iterator[Picture]:
    """Each panel and level of a figure for one scope, net of idle where that is known.

    A level without rows gives no picture. Of runs, only the first one's trace becomes a file.

    Args:
        figure: What to draw.
        scope: Which models.
        stem: Goes before each name.
    """
    general = {"scope": scope.key, "family": scope.family}
    for quantity, title in QUANTITIES.items():
        found = list(_levels(figure, general | {"quantity": quantity}, {"quantity": title}, stem))
        if found:
            yield from found
            return


def _levels(
    figure: Figure, chosen: Mapping[str, str], called: Mapping[str, str], stem: str
) -> Iterator[Picture]:
    choices = [*figure.choices, *([figure.panels] if figure.panels else [])]
    for levels in product(*(_shown_levels(choice) for choice in choices)):
        picked = {choice.column: level for choice, level in zip(choices, levels, strict=True)}
        rows = figure.shown({**chosen, **picked})
        if rows.empty:
            continue
        titles = {choice.column: choice.levels[picked[choice.column]] for choice in choices}
        parts = [
            level
            for choice, level in zip(choices, levels, strict=True)
            if len(choice.levels) > 1 and choice.column != "run"
        ]
        spec = figure.specification({**chosen, **picked}, {**titles, **called})
        yield Picture(
            name="-".join([f"{stem}{figure.name}", *parts]),
            heading=", ".join(titles.values()),
            svg=vl_convert.vegalite_to_svg(spec, config=CONFIG),
        )


def _shown_levels(choice: Choice) -> list[str]:
    levels = list(choice.levels)
    return levels[:1] if choice.column == "run" else levels


def rendered(picture: Picture, kind: str) -> bytes:
    """The picture as SVG, PNG or PDF; the same picture gives the same bytes."""
    if kind == "svg":
        return picture.svg.encode()
    if kind == "png":
        return vl_convert.svg_to_png(picture.svg, scale=_PNG_SCALE)
    return _PDF_NAMES.sub(_sorted, vl_convert.svg_to_pdf(picture.svg))


def _sorted(lines: re.Match[bytes]) -> bytes:
    """Names of a PDF's resources, whose order differs from one call to the next, in order."""
    return b"\n" + b"\n".join(sorted(lines[0].split(b"\n")[1:]))


def data_address(picture: Picture) -> str:
    """The picture as an address that needs no network."""
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.svg.encode()).decode()}"


def figure_files(
    directory: Path, figures: Sequence[Figure], found: Mapping[str, Sequence[Picture]]
) -> list[Path]:
    """Writes every picture as SVG, PNG and PDF, and the rows of every figure as CSV.

    Raises:
        StoreError: They cannot be written.
    """
    written = [
        write_bytes(directory / f"{picture.name}.{kind}", rendered(picture, kind))
        for shown in found.values()
        for picture in shown
        for kind in FORMATS
    ]
    for figure in figures:
        rows = figure.table.drop(columns=[name for name in INNER if name in figure.table])
        text = rows.to_csv(index=False, lineterminator="\n")
        written.append(write_bytes(directory / f"{figure.name}.csv", text.encode()))
    return written
