"""Spans that others recorded, brought together to the runs of a study.

Training and inference of one model at the same levels in one block are one run; what comes again
in the block, in order of time, is the next run of it. Idle belongs to its block or, where it names
none, to the blocks beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joulelab.errors import UserError
from joulelab.import_study.rows import RecordedSpan
from joulelab.study.order import digest, slug

Key = tuple[Any, ...]


@dataclass(slots=True)
class RecordedCell:
    """A run: one model at one combination of levels, once.

    Attributes:
        factors: Model and levels.
        block: Which block.
        repeat: How often the combination had come before, or what the table says.
        phases: The spans of each phase: one, or one an epoch, in order.
        run_id: Names its directory.
        order: Its place in the block, from 0, by time.
    """

    factors: dict[str, Any]
    block: int
    repeat: int
    phases: dict[str, list[RecordedSpan]] = field(default_factory=dict)
    run_id: str = ""
    order: int = 0

    @property
    def spans(self) -> list[RecordedSpan]:
        """All of them, in order of time."""
        spans = [span for phase in self.phases.values() for span in phase]
        return sorted(spans, key=lambda span: span.start_s)


@dataclass(frozen=True, slots=True)
class RecordedIdle:
    """A measurement of idle power.

    Attributes:
        span: When.
        block: Which block it serves.
        run_id: Names its directory.
    """

    span: RecordedSpan
    block: int
    run_id: str


def cells_of(rows: Sequence[RecordedSpan], names: Mapping[str, str]) -> list[RecordedCell]:
    """The runs, by block and time.

    Args:
        rows: In order of time; those of idle are left out.
        names: What each model of the table is called in the study.

    Raises:
        UserError: Two rows are the same epoch of the same run, or say the same repeat twice.
    """
    found: dict[Key, RecordedCell] = {}
    seen: Counter[Key] = Counter()
    for row in rows:
        if row.phase == "idle":
            continue
        factors = {"model": names[row.model], **row.factors}
        block = row.place.get("block", 0)
        combination = (block, *factors.items())
        again = row.place.get("repeat", -1)
        if again < 0 and "epoch" not in row.place:
            again = -1 - seen[(*combination, row.phase)]
            seen[(*combination, row.phase)] += 1
        cell = found.setdefault((*combination, again), RecordedCell(factors, block, again))
        _add(cell, row)
    cells = sorted(found.values(), key=lambda cell: (cell.block, cell.spans[0].start_s))
    _number(cells)
    return cells


def idles_of(rows: Iterable[RecordedSpan], cells: Sequence[RecordedCell]) -> list[RecordedIdle]:
    """Measurements of idle with the block that each serves; one between two blocks serves both."""
    extents: dict[int, tuple[float, float]] = {}
    for cell in cells:
        times = [time for span in cell.spans for time in (span.start_s, span.stop_s)]
        known = extents.get(cell.block, (times[0], times[0]))
        extents[cell.block] = min(known[0], *times), max(known[1], *times)
    found: list[RecordedIdle] = []
    counts: Counter[int] = Counter()
    for row in rows:
        if row.phase != "idle":
            continue
        for block in _blocks_beside(row, extents):
            counts[block] += 1
            run_id = f"r{block}-idle-{counts[block]:02}-{_place(row, extents.get(block))}"
            found.append(RecordedIdle(row, block, run_id))
    return found


def _add(cell: RecordedCell, row: RecordedSpan) -> None:
    spans = cell.phases.setdefault(row.phase, [])
    epoch = row.place.get("epoch")
    for span in spans:
        if span.place.get("epoch") == epoch:
            which = f"epoch {epoch} of " if epoch is not None else ""
            raise UserError(
                f"{span.label} and {row.label} are both {which}the {row.phase} phase of one run",
                why=f"of {row.model}" + "".join(f", {k} {v}" for k, v in row.place.items()),
                hint="tell them apart by a column repeat, block or epoch",
            )
    spans.append(row)


def _number(cells: Sequence[RecordedCell]) -> None:
    """Gives each run its place in its block, its repeat and its name."""
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


def _blocks_beside(row: RecordedSpan, extents: Mapping[int, tuple[float, float]]) -> list[int]:
    """The block that a row names; otherwise those around it, or just before and after."""
    if "block" in row.place:
        return [row.place["block"]]
    middle_s = (row.start_s + row.stop_s) / 2
    around = [block for block, (start, stop) in extents.items() if start <= middle_s <= stop]
    before = [(stop, block) for block, (_, stop) in extents.items() if stop < middle_s]
    after = [(start, block) for block, (start, _) in extents.items() if start > middle_s]
    if around:
        return around
    beside = [max(before)] if before else []
    beside += [min(after)] if after else []
    return [block for _, block in beside]


def _place(row: RecordedSpan, extent: tuple[float, float] | None) -> str:
    if extent is None or row.stop_s <= extent[0]:
        return "before"
    return "after" if row.start_s >= extent[1] else "within"


def levels(cells: Iterable[RecordedCell]) -> dict[str, list[Any]]:
    """The levels of each factor that runs name, the model's among them, in order."""
    found: dict[str, dict[Any, None]] = defaultdict(dict)
    for cell in cells:
        for name, level in cell.factors.items():
            found[name][level] = None
    return {name: list(values) for name, values in found.items()}


def most_repeats(cells: Iterable[RecordedCell]) -> int:
    """The most runs of one combination."""
    return max(Counter(tuple(cell.factors.items()) for cell in cells).values())
