"""What the columns of a table of spans say of each span: model, phase, levels and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from joulelab.errors import UserError, nearest
from joulelab.logs.csv_table import is_absent, number
from joulelab.logs.span_energies import ImportedSpan
from joulelab.study.log_plan import RecordedFactors

PHASES = ("train", "infer", "idle")
IGNORE = "ignore"
"""What a phase may be taken as, beside :data:`PHASES`."""
MOST_OVERLAP_S = 1e-3
"""Spans may overlap by as much as their times are rounded."""

Reader = Callable[[str], Any]


def _positive(text: str) -> int:
    value = number(text)
    if not (value.is_integer() and value > 0):
        raise ValueError("must be a whole number above 0")
    return int(value)


def _count(text: str) -> int:
    value = number(text)
    if not (value.is_integer() and value >= 0):
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def _real(text: str) -> float:
    value = number(text)
    if not math.isfinite(value):
        raise ValueError("must be a number")
    return value


def _percent(text: str) -> float:
    value = _real(text)
    if not 0 <= value <= 100:
        raise ValueError("must lie between 0 and 100")
    return value


def _flag(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


FACTORS: Mapping[str, Reader] = dict.fromkeys(RecordedFactors.model_fields, str) | {
    "batch_size": _positive,
    "compile": _flag,
}
FIGURES: Mapping[str, Reader] = {
    "epochs": _positive,
    "steps": _positive,
    "samples": _positive,
    "loss": _real,
    "accuracy_pct": _percent,
    "train_accuracy_pct": _percent,
    "vram_peak_bytes": _count,
    "data_wait_s": _real,
    "gpu_utilization_pct": _percent,
    "memory_utilization_pct": _percent,
    "cpu_utilization_pct": _percent,
}
CHARACTERISTICS: Mapping[str, Reader] = dict.fromkeys(
    ("parameters", "trainable_parameters", "parameter_bytes", "buffer_bytes", "size_bytes", "macs"),
    _count,
)
PLACE: Mapping[str, Reader] = dict.fromkeys(("block", "repeat", "epoch"), _count)
ALIASES = {"peak_allocated_bytes": "vram_peak_bytes"}
"""Other names that columns may have."""


@dataclass(frozen=True, slots=True)
class RecordedSpan:
    """One row of the table.

    Attributes:
        row: Its place in the table, from 1.
        start_s: On the log's clock.
        stop_s: After the start.
        phase: ``"train"``, ``"infer"`` or ``"idle"``.
        model: As the table has it; empty for idle.
        place: ``block``, ``repeat`` and ``epoch``, as far as they are given.
        factors: The levels that are given.
        figures: Of :data:`FIGURES`, those that are given, and the samples that follow from them.
        characteristics: Of the model, those that are given.
        attributes: The further columns, as text.
    """

    row: int
    start_s: float
    stop_s: float
    phase: str
    model: str = ""
    place: Mapping[str, int] = field(default_factory=dict)
    factors: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    characteristics: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As a message calls it."""
        return f"row {self.row}" if self.row else "--idle"


def read_rows(
    spans: Sequence[ImportedSpan], phases: Mapping[str, str], idle_at: Sequence[ImportedSpan] = ()
) -> tuple[list[RecordedSpan], list[str]]:
    """What each span is, and what of the table was not understood.

    Args:
        spans: The table.
        phases: What a phase of the table is to be taken as: one of :data:`PHASES`, or
            :data:`IGNORE`.
        idle_at: Spans that are idle whatever their phase says.

    Returns:
        The spans in order of time, and notes for a person.

    Raises:
        UserError: A column is missing, a cell is not what it should be, a phase is not known, or
            two spans overlap.
    """
    columns = {ALIASES.get(name, name) for name in spans[0].attributes}
    idle_rows = {(span.row, span.start_s, span.stop_s) for span in idle_at}
    named = [span for span in spans if (span.row, span.start_s, span.stop_s) not in idle_rows]
    if not named:
        raise UserError("every span is idle: there is nothing to make a study of")
    _require("model" in columns, "model")
    known = {*PHASES, IGNORE, *phases}
    _require("phase" in columns or known >= {span.name.lower() for span in named}, "phase")
    rows = [_row(span, phases) for span in named]
    found = [row for row in rows if row is not None]
    found += [_idle(span) for span in idle_at]
    if not any(row.phase != "idle" for row in found):
        raise UserError("no span is of training or inference: there is nothing to make a study of")
    found.sort(key=lambda row: (row.start_s, row.stop_s))
    _refuse_overlaps(found)
    return found, _notes(columns, len(rows) - sum(row is not None for row in rows))


def _require(given: bool, column: str) -> None:
    if not given:
        raise UserError(
            f"the spans have no column {column!r}, which a study needs",
            hint=f"add it, or say with --rename OLD={column} what it is called",
        )


def _row(span: ImportedSpan, phases: Mapping[str, str]) -> RecordedSpan | None:
    """What one span is; ``None`` for one that is to be ignored."""
    cells = {ALIASES.get(name, name): cell for name, cell in span.attributes.items()}
    phase = _phase(span, cells, phases)
    if phase == IGNORE:
        return None
    if span.stop_s <= span.start_s:
        raise UserError(f"the span of row {span.row} has no length")
    if phase == "idle":
        return _idle(span)
    model = cells.get("model", "")
    if is_absent(model):
        raise UserError(f"row {span.row}: a span of phase {phase!r} names no model")
    figures = _read(span, cells, FIGURES)
    factors = _read(span, cells, FACTORS)
    if {"steps"} <= figures.keys() and {"batch_size"} <= factors.keys():
        figures.setdefault("samples", figures["steps"] * factors["batch_size"])
    known = {"model", "phase", *FACTORS, *FIGURES, *CHARACTERISTICS, *PLACE}
    return RecordedSpan(
        row=span.row,
        start_s=span.start_s,
        stop_s=span.stop_s,
        phase=phase,
        model=model,
        place=_read(span, cells, PLACE),
        factors=factors,
        figures=figures,
        characteristics=_read(span, cells, CHARACTERISTICS),
        attributes={name: cell for name, cell in cells.items() if name not in known and cell},
    )


def _idle(span: ImportedSpan) -> RecordedSpan:
    cells = span.attributes
    place = _read(span, cells, {"block": PLACE["block"]})
    return RecordedSpan(span.row, span.start_s, span.stop_s, "idle", place=place)


def _phase(span: ImportedSpan, cells: Mapping[str, str], phases: Mapping[str, str]) -> str:
    """The phase by the column ``phase``, or by the name where there is no such column."""
    text = cells.get("phase", span.name)
    phase = phases.get(text, text.lower())
    if phase not in (*PHASES, IGNORE):
        kinds = f"--phase {text or 'NAME'}=train, =infer, =idle or =ignore"
        raise UserError(
            f"row {span.row}: the phase {text!r} is neither train, infer nor idle",
            hint=f"say what it is with {kinds}",
        )
    return phase


def _read(
    span: ImportedSpan, cells: Mapping[str, str], readers: Mapping[str, Reader]
) -> dict[str, Any]:
    """Those cells that are not empty."""
    found: dict[str, Any] = {}
    for name, reader in readers.items():
        cell = cells.get(name, "")
        if is_absent(cell):
            continue
        try:
            found[name] = reader(cell)
        except ValueError as error:
            raise UserError(f"row {span.row}: {name} is {cell!r}", why=str(error)) from None
    return found


def _refuse_overlaps(rows: Sequence[RecordedSpan]) -> None:
    for first, second in pairwise(rows):
        if first.stop_s - second.start_s > MOST_OVERLAP_S:
            same = (first.start_s, first.stop_s) == (second.start_s, second.stop_s)
            how = "are of the same time" if same else "overlap"
            raise UserError(
                f"the spans of {first.label} and {second.label} {how}",
                why="their energy would be counted twice",
                hint="keep one, or leave out a phase with --phase NAME=ignore",
            )


def _notes(columns: set[str], ignored: int) -> list[str]:
    known = {"model", "phase", *FACTORS, *FIGURES, *CHARACTERISTICS, *PLACE}
    notes = [f"{ignored} spans were ignored, as asked"] if ignored else []
    for name in sorted(columns - known):
        notes.append(f"column {name!r} is kept with each span, and nothing is made of it")
        close = nearest(name, known)
        if close.startswith("did you mean"):
            notes[-1] += f"; {close} (--rename {name}=...)"
    return notes


def check_phases(phases: Mapping[str, str]) -> None:
    """Refuses what phases cannot be taken as.

    Raises:
        UserError: One is none of :data:`PHASES` and not :data:`IGNORE`.
    """
    for name, phase in phases.items():
        if phase not in (*PHASES, IGNORE):
            raise UserError(
                f"--phase {name}={phase}: no phase {phase!r}",
                hint=nearest(phase, (*PHASES, IGNORE)),
            )
