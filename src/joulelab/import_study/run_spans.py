"""Spans of a table as runs of a study: what each span is, and which spans are one run.

Training and inference of one model at the same levels in one block are one run; if they occur again
in the block, they are the next run. An idle span belongs to its block or, if the table names none,
to the blocks before and after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from joulelab.errors import UserError, nearest
from joulelab.format import count
from joulelab.logs.cells import is_absent, number
from joulelab.logs.span_energies import ImportedSpan
from joulelab.runs import FACTORS, LIMIT_UNITS
from joulelab.study.cells import digest, run_name

PHASES = ("train", "infer", "idle")
IGNORE = "ignore"  # What a phase may be read as, in addition to :data:`PHASES`.
MOST_OVERLAP_S = 1e-3  # Spans may overlap by this much, since their times are rounded.

Parser = Callable[[str], Any]
Key = tuple[Any, ...]


def _whole(least: int) -> Parser:
    def parse(text: str) -> int:
        value = number(text)
        if not (value.is_integer() and value >= least):
            raise ValueError(f"must be a whole number, {least} or more")
        return int(value)

    return parse


def _real(text: str) -> float:
    value = number(text)
    if not math.isfinite(value):
        raise ValueError("must be a number")
    return value


def _positive(text: str) -> float:
    value = _real(text)
    if value <= 0:
        raise ValueError("must be a positive number")
    return value


def _percent(text: str) -> float:
    value = _real(text)
    if not 0 <= value <= 100:
        raise ValueError("must be between 0 and 100")
    return value


def _flag(text: str) -> bool:
    flags = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in flags:
        raise ValueError("must be true or false")
    return flags[text.lower()]


CHARACTERISTICS = (
    *("parameters", "trainable_parameters", "parameter_bytes", "buffer_bytes", "size_bytes"),
    "macs",
)
RESULTS = (
    *("epochs", "steps", "samples", "loss", "accuracy_pct", "train_accuracy_pct"),
    *("vram_peak_bytes", "data_wait_s"),
    *("gpu_utilization_pct", "memory_utilization_pct", "cpu_utilization_pct"),
)
_PARSERS: Mapping[str, Parser] = {
    **dict.fromkeys(FACTORS, str),
    **dict.fromkeys(CHARACTERISTICS, _whole(0)),
    **dict.fromkeys(RESULTS, _percent),
    **dict.fromkeys(("batch_size", "epochs", "steps", "samples"), _whole(1)),
    **dict.fromkeys(("block", "repeat", "epoch", "vram_peak_bytes"), _whole(0)),
    **dict.fromkeys(("loss", "data_wait_s"), _real),
    **dict.fromkeys(LIMIT_UNITS, _positive),
    "compile": _flag,
}
_KNOWN = {"model", "phase", *_PARSERS}
_ALIASES = {"peak_allocated_bytes": "vram_peak_bytes"}  # Other names of columns.


@dataclass(frozen=True, slots=True)
class RunSpan:
    """What one row of the table describes; row 0 is a span from ``--idle``, which has no model.

    ``values`` are known columns that have a value (:data:`_PARSERS`), ``attributes`` the others.
    """

    row: int
    start_s: float
    stop_s: float
    phase: str
    model: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in a message."""
        return f"row {self.row}" if self.row else "--idle"

    def only(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the values of these columns that it has."""
        return {name: self.values[name] for name in names if name in self.values}


@dataclass(slots=True)
class Cell:
    """A run: one model at one combination of levels, once."""

    factors: dict[str, Any]  # With the model.
    block: int
    repeat: int
    phases: dict[str, list[RunSpan]] = field(default_factory=dict)  # One span, or one per epoch.
    run_id: str = ""
    order: int = 0  # Position in the block.

    @property
    def spans(self) -> list[RunSpan]:
        """All spans in order of time."""
        spans = [span for phase in self.phases.values() for span in phase]
        return sorted(spans, key=lambda span: span.start_s)


@dataclass(frozen=True, slots=True)
class IdleRun:
    """A measurement of idle power for one block."""

    span: RunSpan
    block: int
    run_id: str


def read_run_spans(
    spans: Sequence[ImportedSpan], phases: Mapping[str, str], idle: Sequence[ImportedSpan] = ()
) -> tuple[list[RunSpan], list[str]]:
    """Read what each span describes, in order of time, with notes on what is ignored.

    ``phases`` maps the table's phases to :data:`PHASES` or :data:`IGNORE`.
    """
    for name, phase in phases.items():
        if phase not in (*PHASES, IGNORE):
            hint = nearest(phase, (*PHASES, IGNORE))
            raise UserError(f"--phase {name}={phase}: no phase {phase!r}", hint=hint)
    columns = {_ALIASES.get(name, name) for name in spans[0].attributes}
    idle_keys = {(span.row, span.start_s, span.stop_s) for span in idle}
    others = [span for span in spans if (span.row, span.start_s, span.stop_s) not in idle_keys]
    if not others:
        raise UserError("all spans are idle, so there is no run")
    names = {span.name.lower() for span in others}
    for column, is_given in (
        ("model", "model" in columns),
        ("phase", "phase" in columns or names <= {*PHASES, IGNORE, *phases}),
    ):
        if not is_given:
            raise UserError(
                f"the spans have no column {column!r}, which a study needs",
                hint=f"add it, or name the column to read as it with --rename OLD={column}",
            )
    read = [_read_span(span, phases) for span in others]
    found = [span for span in read if span is not None]
    notes = [f"ignored {count(read.count(None), 'span')}"] if None in read else []
    if all(span.phase == "idle" for span in found):
        raise UserError("no span is training or inference, so there is no run")
    found += [_idle(span) for span in idle]
    found.sort(key=lambda span: (span.start_s, span.stop_s))
    for first, second in pairwise(found):
        if first.stop_s - second.start_s > MOST_OVERLAP_S:
            is_same = (first.start_s, first.stop_s) == (second.start_s, second.stop_s)
            raise UserError(
                f"the spans of {first.label} and {second.label} "
                f"{'are of the same time' if is_same else 'overlap'}",
                why="their energy would be counted twice",
                hint="keep one, or leave out a phase with --phase NAME=ignore",
            )
    for name in sorted(columns - _KNOWN):
        similar = nearest(name, _KNOWN)
        hint = f"; {similar} (--rename {name}=...)" if similar.startswith("did you mean") else ""
        notes.append(f"column {name!r} is unknown and saved as an attribute of the spans{hint}")
    return found, notes


def _read_span(span: ImportedSpan, phases: Mapping[str, str]) -> RunSpan | None:
    """Read one span; return ``None`` for one to ignore."""
    cells = {_ALIASES.get(name, name): cell for name, cell in span.attributes.items()}
    text = cells.get("phase", span.name)
    phase = phases.get(text, text.lower())
    if phase == IGNORE:
        return None
    if phase not in PHASES:
        raise UserError(
            f"row {span.row}: the phase {text!r} is not train, infer or idle",
            hint=f"state what it is with --phase {text or 'NAME'}=train, =infer, =idle or =ignore",
        )
    if span.stop_s <= span.start_s:
        raise UserError(f"the span of row {span.row} has no length")
    if phase == "idle":
        return _idle(span)
    model = cells.get("model", "")
    if is_absent(model):
        raise UserError(f"row {span.row}: a span of phase {phase!r} has no model")
    values = _parse(span, cells)
    if "steps" in values and "batch_size" in values:
        values.setdefault("samples", values["steps"] * values["batch_size"])
    attributes = {name: cell for name, cell in cells.items() if name not in _KNOWN and cell}
    return RunSpan(span.row, span.start_s, span.stop_s, phase, model, values, attributes)


def _idle(span: ImportedSpan) -> RunSpan:
    cells = {name: cell for name, cell in span.attributes.items() if name == "block"}
    return RunSpan(span.row, span.start_s, span.stop_s, "idle", values=_parse(span, cells))


def _parse(span: ImportedSpan, cells: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        if name not in _PARSERS or is_absent(cell):
            continue
        try:
            values[name] = _PARSERS[name](cell)
        except ValueError as error:
            raise UserError(f"row {span.row}: {name} is {cell!r}", why=str(error)) from None
    return values


def group_cells(spans: Iterable[RunSpan], names: Mapping[str, str]) -> list[Cell]:
    """Group spans to runs, by block and time; ``names`` maps the table's models to the study's."""
    found: dict[Key, Cell] = {}
    occurrences: Counter[Key] = Counter()
    for span in spans:
        if span.phase == "idle":
            continue
        factors = {"model": names[span.model], **span.only(FACTORS)}
        block = span.values.get("block", 0)
        combination = (block, *factors.items())
        repeat = span.values.get("repeat", -1)
        if repeat < 0 and "epoch" not in span.values:
            # Negative until all runs are known: the table may state other repeats.
            repeat = -1 - occurrences[(*combination, span.phase)]
            occurrences[(*combination, span.phase)] += 1
        cell = found.setdefault((*combination, repeat), Cell(factors, block, repeat))
        _add(cell, span)
    cells = sorted(found.values(), key=lambda cell: (cell.block, cell.spans[0].start_s))
    orders: Counter[int] = Counter()
    repeats: Counter[Key] = Counter()
    taken: Counter[str] = Counter()
    for cell in cells:
        cell.order = orders[cell.block]
        orders[cell.block] += 1
        combination = tuple(cell.factors.items())
        if cell.repeat < 0:
            cell.repeat = repeats[combination]
        repeats[combination] += 1
        name = f"r{cell.block}-{run_name(cell.factors)}-{digest(cell.factors)[:6]}"
        taken[name] += 1
        cell.run_id = name if taken[name] == 1 else f"{name}-{taken[name]}"
    return cells


def _add(cell: Cell, span: RunSpan) -> None:
    spans = cell.phases.setdefault(span.phase, [])
    epoch = span.values.get("epoch")
    same = next((one for one in spans if one.values.get("epoch") == epoch), None)
    if same is not None:
        stated = span.only(("block", "repeat", "epoch")).items()
        which = f"epoch {epoch} of " if epoch is not None else ""
        raise UserError(
            f"{same.label} and {span.label} are both {which}the {span.phase} phase of one run",
            why=", ".join([f"of {span.model}", *(f"{name} {value}" for name, value in stated)]),
            hint="distinguish them by a column repeat, block or epoch",
        )
    spans.append(span)


def group_idle(spans: Iterable[RunSpan], cells: Sequence[Cell]) -> list[IdleRun]:
    """Assign idle spans to blocks; one between two blocks is used for both."""
    extents: dict[int, tuple[float, float]] = {}
    for cell in cells:
        times = [time for span in cell.spans for time in (span.start_s, span.stop_s)]
        extent = extents.get(cell.block, (times[0], times[0]))
        extents[cell.block] = min(extent[0], *times), max(extent[1], *times)
    runs: list[IdleRun] = []
    counts: Counter[int] = Counter()
    for span in spans:
        if span.phase != "idle":
            continue
        for block in _blocks_near(span, extents):
            counts[block] += 1
            start_s, stop_s = extents.get(block, (math.inf, math.inf))
            when = "within"
            if span.stop_s <= start_s:
                when = "before"
            elif span.start_s >= stop_s:
                when = "after"
            runs.append(IdleRun(span, block, f"r{block}-idle-{counts[block]:02}-{when}"))
    return runs


def _blocks_near(span: RunSpan, extents: Mapping[int, tuple[float, float]]) -> list[int]:
    """Find the block that a span names, or those around it, or the last before and first after."""
    if "block" in span.values:
        return [span.values["block"]]
    middle_s = (span.start_s + span.stop_s) / 2
    around = [block for block, (start, stop) in extents.items() if start <= middle_s <= stop]
    before = [(stop, block) for block, (_, stop) in extents.items() if stop < middle_s]
    after = [(start, block) for block, (start, _) in extents.items() if start > middle_s]
    if around:
        return around
    return [block for _, block in (*sorted(before)[-1:], *sorted(after)[:1])]
