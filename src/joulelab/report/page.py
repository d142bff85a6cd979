"""The page: sections from studies, put into one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

import joulelab
from joulelab.analysis.files import write_bytes
from joulelab.analysis.studies import Study, read_studies
from joulelab.analysis.summary import summary
from joulelab.analysis.tables import (
    epoch_table,
    failure_table,
    idle_table,
    run_table,
    write_tables,
)
from joulelab.errors import StoreError, UserError
from joulelab.machine import Machine
from joulelab.report import epochs as epoch_figure
from joulelab.report import figures
from joulelab.report.figures import Limit
from joulelab.report.origin import absences, origins
from joulelab.report.sections import baseline, machines, overview, results
from joulelab.report.style import FORMATS, NothingToDraw, rendered

PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class Written:
    """What a report wrote.

    Attributes:
        page: The HTML file.
        figures: PNG, SVG and PDF of each figure.
        tables: CSV and Parquet.
    """

    page: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure on the page.

    Attributes:
        name: Of its files.
        title: Its heading.
        caption: How to read it.
        alt: What it shows, for those who cannot see it.
        source: The SVG as a ``data:`` address; empty when there was nothing to draw.
        missing: Why there was nothing to draw.
    """

    name: str
    title: str
    caption: str
    alt: str = ""
    source: str = ""
    missing: str = ""


def write_report(directories: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Writes one self-contained HTML page, its figures and its tables.

    Args:
        directories: Studies, at least one.
        out: The page (a name ending in ``.html``) or the directory for it. Default: that of the
            study; ``joulelab-report`` in the current directory for several. Figures go to
            ``figures`` and tables beside the page.

    Returns:
        The page.

    Raises:
        StoreError: A directory is no study, none of its runs has ended (failed ones count, so
            that their reasons are seen), or the report cannot be written.
    """
    return write_all(directories, out).page


def write_all(directories: Sequence[str | Path], out: str | Path | None = None) -> Written:
    """As :func:`write_report`, and says what else it wrote."""
    if not directories:
        raise UserError("no study to report", mend="name one or several study directories")
    studies = read_studies(directories)
    for study in studies:
        if not study.readable():
            raise StoreError(
                f"{study.directory} has nothing to report",
                why="no run has ended, or every record is damaged",
                mend="run the study first",
            )
    page = _place(studies, out)
    several = len(studies) > 1
    figure_files: list[Path] = []
    parts = []
    for study in studies:
        stem = f"{_slug(study.label)}-" if several else ""
        part, files = _study(study, page.parent / "figures", stem)
        parts.append(part)
        figure_files += files
    html = _render(studies=parts, version=joulelab.__version__)
    tables = write_tables(studies, page.parent)
    write_bytes(page, html.encode())
    return Written(page, tuple(figure_files), tuple(tables))


def _study(study: Study, directory: Path, stem: str) -> tuple[Mapping[str, Any], list[Path]]:
    rows = run_table([study])
    table = summary(rows)
    drawn, files = _figures(study, table, directory, stem)
    part = {
        "id": _slug(study.label),
        "overview": overview(study, rows),
        "origins": origins(study),
        "absences": absences(study),
        "results": results(table),
        "figures": drawn,
        "machines": machines(study),
        "baseline": baseline(idle_table([study])),
        "failures": failure_table([study]).fillna("").to_dict("records"),
        "plan": study.plan.to_toml(),
    }
    return part, files


def _figures(
    study: Study, table: pd.DataFrame, directory: Path, stem: str
) -> tuple[list[Drawn], list[Path]]:
    makers: list[tuple[str, str, str, Callable[[], Figure]]] = [
        (
            "energy",
            "Energy per sample",
            "Frugal is left and on top. Filled marks are gross energy, hollow ones net of idle; "
            "lines are 95 % intervals.",
            lambda: figures.energy(table),
        ),
        (
            "duration",
            "Time per sample",
            "Training and inference beside each other; lines are 95 % intervals between repeats.",
            lambda: figures.duration(table),
        ),
        (
            "power",
            "Mean power by component",
            "The dark mark is the idle power of the same components at that time.",
            lambda: figures.power(table, limits(study)),
        ),
        (
            "macs-per-parameter",
            "Energy against MACs per parameter",
            "Both axes are logarithmic; each point is a model.",
            lambda: figures.macs_per_parameter(table),
        ),
        (
            "epochs",
            "Loss, accuracy and energy by epoch",
            "Means over the repeats; an epoch that was cut short is left out.",
            lambda: epoch_figure.epochs(epoch_table([study])),
        ),
    ]
    drawn: list[Drawn] = []
    files: list[Path] = []
    for name, title, caption, make in makers:
        try:
            figure = make()
        except NothingToDraw as reason:
            drawn.append(Drawn(name, title, caption, missing=str(reason)))
            continue
        contents = {kind: rendered(figure, kind) for kind in FORMATS}
        files += [
            write_bytes(directory / f"{stem}{name}.{kind}", content)
            for kind, content in contents.items()
        ]
        svg = base64.b64encode(contents["svg"]).decode()
        drawn.append(
            Drawn(
                name,
                title,
                caption,
                alt=_alt(title, table, name),
                source=f"data:image/svg+xml;base64,{svg}",
            )
        )
    return drawn, files


def limits(study: Study) -> list[Limit]:
    """Power limits of the study's GPUs and TDP of its CPUs, where the record has them all."""
    machine = Machine.from_json(dict(study.readable()[0].data["machine"]))
    found: list[Limit] = []
    gpu_limits = [gpu.power_limit_w for gpu in machine.gpus]
    if gpu_limits and None not in gpu_limits:
        power_w = sum(limit for limit in gpu_limits if limit is not None)
        found.append(Limit("gpu", power_w, f"GPU limit {power_w:g} W"))
    if machine.cpu_tdp_w and machine.cpu_sockets:
        power_w = machine.cpu_tdp_w * machine.cpu_sockets
        found.append(Limit("cpu", power_w, f"CPU TDP {power_w:g} W"))
    return found


def _alt(title: str, table: pd.DataFrame, name: str) -> str:
    columns = {
        "energy": ("gross_j_per_sample", "gross energy per sample"),
        "macs-per-parameter": ("gross_j_per_sample", "gross energy per sample"),
        "duration": ("duration_s_per_sample", "time per sample"),
        "power": ("mean_power_w", "mean power"),
    }
    if name not in columns:
        return f"{title}, for {table['model'].nunique()} models. The figures are in epochs.parquet."
    column, what = columns[name]
    known = table[table[column].notna()]
    texts = [f"{title}."]
    for phase, word in (("train", "training"), ("infer", "inference")):
        part = known[known["phase"] == phase]
        if not part.empty:
            models = part.sort_values(column, kind="stable")["model"]
            texts.append(
                f"In {word}, {what} is least for {models.iloc[0]} and most for {models.iloc[-1]}."
            )
    return " ".join([*texts, "The figures are in the table of results."])


def _render(**values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("joulelab.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**values)


def _place(studies: Sequence[Study], out: str | Path | None) -> Path:
    if out is None:
        directory = studies[0].directory if len(studies) == 1 else Path("joulelab-report")
        return directory / PAGE
    path = Path(out)
    return path if path.suffix.lower() in (".html", ".htm") and not path.is_dir() else path / PAGE


def _slug(text: str) -> str:
    """Letters, digits and hyphens.

    Example:
        >>> _slug("quick (my study)")
        'quick-my-study'
    """
    kept = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text)
    return "-".join(kept.lower().split())
