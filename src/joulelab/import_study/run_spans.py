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
from joulelab.logs.csv_table import is_absent, number
from joulelab.logs.span_energies import ImportedSpan
from joulelab.study.log_plan import RecordedFactors
from joulelab.study.order import digest, slug

PHASES = ("train", "infer", "idle")
IGNORE = "ignore"
"""What a phase may be read as, in addition to :data:`PHASES`."""
MOST_OVERLAP_S = 1e-3
"""Spans may overlap by this much, since their times are rounded."""

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


_FACTORS: Mapping[str, Parser] = dict.fromkeys(RecordedFactors.model_fields, str) | {
    "batch_size": _whole(1),
    "compile": _flag,
}
RESULTS: Mapping[str, Parser] = {
    **dict.fromkeys(("epochs", "steps", "samples"), _whole(1)),
    **dict.fromkeys(("loss", "data_wait_s"), _real),
    **dict.fromkeys(("accuracy_pct", "train_accuracy_pct"), _percent),
    **dict.fromkeys(
        ("gpu_utilization_pct", "memory_utilization_pct", "cpu_utilization_pct"), _percent
    ),
    "vram_peak_bytes": _whole(0),
}
"""Columns that are results of a run."""
_CHARACTERISTICS: Mapping[str, Parser] = dict.fromkeys(
    ("parameters", "trainable_parameters", "parameter_bytes", "buffer_bytes", "size_bytes", "macs"),
    _whole(0),
)
_POSITION: Mapping[str, Parser] = dict.fromkeys(("block", "repeat", "epoch"), _whole(0))
_KNOWN = {"model", "phase", *_FACTORS, *RESULTS, *_CHARACTERISTICS, *_POSITION}
_ALIASES = {"peak_allocated_bytes": "vram_peak_bytes"}
"""Other names of columns."""


@dataclass(frozen=True, slots=True)
class RunSpan:
    """What one row of the table describes; mappings contain only what it states.

    Attributes:
        row: Row in the table, from 1; 0 for a span from ``--idle``.
        start_s: Start on the log's clock.
        stop_s: End on the log's clock, after the start.
        phase: ``"train"``, ``"infer"`` or ``"idle"``.
        model: Name in the table; empty for idle.
        position: ``block``, ``repeat`` and ``epoch``.
        factors: Levels.
        results: Results, and the samples that follow from steps and batch size.
        characteristics: Parameters, MACs and sizes of the model.
        attributes: The other columns, as text.
    """

    row: int
    start_s: float
    stop_s: float
    phase: str
    model: str = ""
    position: Mapping[str, int] = field(default_factory=dict)
    factors: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    characteristics: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in a message."""
        return f"row {self.row}" if self.row else "--idle"


@dataclass(slots=True)
class Cell:
    """A run: one model at one combination of levels, once.

    Attributes:
        factors: Model and levels.
        block: Block of the study.
        repeat: Number of earlier runs of the combination, unless the table states it.
        phases: Spans of each phase: one, or one for each epoch, in order.
        run_id: Name of its directory.
        order: Position in the block, from 0, by time.
    """

    factors: dict[str, Any]
    block: int
    repeat: int
    phases: dict[str, list[RunSpan]] = field(default_factory=dict)
    run_id: str = ""
    order: int = 0

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
    """Read what each span of a table describes.

    Args:
        spans: The table.
        phases: What to read the table's phases as: one of :data:`PHASES`, or :data:`IGNORE`.
        idle: Spans that are idle, whatever their phase is.

    Returns:
        The spans in order of time, and notes on ignored spans and unknown columns.

    Raises:
        UserError: A column is missing, a cell has a wrong value, a phase is unknown, or two spans
            overlap.
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
    results = _parse(span, cells, RESULTS)
    factors = _parse(span, cells, _FACTORS)
    if "steps" in results and "batch_size" in factors:
        results.setdefault("samples", results["steps"] * factors["batch_size"])
    return RunSpan(
        row=span.row,
        start_s=span.start_s,
        stop_s=span.stop_s,
        phase=phase,
        model=model,
        position=_parse(span, cells, _POSITION),
        factors=factors,
        results=results,
        characteristics=_parse(span, cells, _CHARACTERISTICS),
        attributes={name: cell for name, cell in cells.items() if name not in _KNOWN and cell},
    )


def _idle(span: ImportedSpan) -> RunSpan:
    position = _parse(span, span.attributes, {"block": _POSITION["block"]})
    return RunSpan(span.row, span.start_s, span.stop_s, "idle", position=position)


def _parse(
    span: ImportedSpan, cells: Mapping[str, str], parsers: Mapping[str, Parser]
) -> dict[str, Any]:
    """Parse the cells that have a value."""
    values: dict[str, Any] = {}
    for name, parse in parsers.items():
        cell = cells.get(name, "")
        if is_absent(cell):
            continue
        try:
            values[name] = parse(cell)
        except ValueError as error:
            raise UserError(f"row {span.row}: {name} is {cell!r}", why=str(error)) from None
    return values


def group_cells(spans: Iterable[RunSpan], names: Mapping[str, str]) -> list[Cell]:
    """Group spans of training and inference to runs, by block and time.

    Args:
        spans: Spans in order of time.
        names: What to call each model of the table.

    Raises:
        UserError: Two spans are the same epoch of the same run, or state the same repeat.
    """
    found: dict[Key, Cell] = {}
    occurrences: Counter[Key] = Counter()
    for span in spans:
        if span.phase == "idle":
            continue
        factors = {"model": names[span.model], **span.factors}
        block = span.position.get("block", 0)
        combination = (block, *factors.items())
        repeat = span.position.get("repeat", -1)
        if repeat < 0 and "epoch" not in span.position:
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
        batch = f"-b{cell.factors['batch_size']}" if "batch_size" in cell.factors else ""
        name = f"r{cell.block}-{slug(cell.factors['model'])}{batch}-{digest(cell.factors)[:6]}"
        taken[name] += 1
        cell.run_id = name if taken[name] == 1 else f"{name}-{taken[name]}"
    return cells


def _add(cell: Cell, span: RunSpan) -> None:
    spans = cell.phases.setdefault(span.phase, [])
    epoch = span.position.get("epoch")
    same = next((one for one in spans if one.position.get("epoch") == epoch), None)
    if same is not None:
        which = f"epoch {epoch} of " if epoch is not None else ""
        raise UserError(
            f"{same.label} and {span.label} are both {which}the {span.phase} phase of one run",
            why=f"of {span.model}" + "".join(f", {k} {v}" for k, v in span.position.items()),
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
    if "block" in span.position:
        return [span.position["block"]]
    middle_s = (span.start_s + span.stop_s) / 2
    around = [block for block, (start, stop) in extents.items() if start <= middle_s <= stop]
    before = [(stop, block) for block, (_, stop) in extents.items() if stop < middle_s]
    after = [(start, block) for block, (start, _) in extents.items() if start > middle_s]
    if around:
        return around
    return [block for _, block in (*sorted(before)[-1:], *sorted(after)[:1])]
