"""What a study has cost so far and will still cost, and its progress on standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from joulelab.format import count, duration, finite_or_none, quantity
from joulelab.runs.record import Run
from joulelab.runs.shared_machine import shared_energies
from joulelab.runs.study_part import WHOLE_SPANS
from joulelab.runs.study_runs import idle_points
from joulelab.study.cells import Cell
from joulelab.study.plan import Plan, is_bounded


@dataclass(frozen=True, slots=True)
class Cost:
    """Duration and gross energy; NaN if unknown. ``is_limit`` if the duration is the longest.

    Example:
        >>> str(Cost(95.0, 12345.0)), str(Cost(8.0)), str(Cost())
        ('1 min 35 s, 12.3 kJ', '8.00 s, energy unknown', 'unknown')
        >>> Cost(95.0, 12345.0).estimate, Cost(8.0, is_limit=True).estimate
        ('about 1 min 35 s, 12.3 kJ', 'at most 8.00 s')
    """

    duration_s: float = math.nan
    energy_j: float = math.nan
    is_limit: bool = False

    def __str__(self) -> str:
        if math.isnan(self.duration_s) and math.isnan(self.energy_j):
            return "unknown"
        return f"{self.time_text}, {self.energy_text}"

    @property
    def estimate(self) -> str:
        """The known parts as an estimate; empty if none is known."""
        time = "" if math.isnan(self.duration_s) else self.time_text
        energy = "" if math.isnan(self.energy_j) else self.energy_text
        known = ", ".join(filter(None, (time, energy)))
        return f"{'' if self.is_limit or not known else 'about '}{known}"

    @property
    def time_text(self) -> str:
        """The duration with its unit."""
        if math.isnan(self.duration_s):
            return "time unknown"
        return f"{'at most ' if self.is_limit else ''}{duration(self.duration_s)}"

    @property
    def energy_text(self) -> str:
        """The energy with its unit."""
        return "energy unknown" if math.isnan(self.energy_j) else quantity(self.energy_j, "J")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        data: dict[str, Any] = finite_or_none(asdict(self))
        return data


def spent(runs: Iterable[Run]) -> Cost:
    """Add up what finished runs cost, idle and failed ones included."""
    runs = list(runs)
    energies = [_energy_j(run) for run in runs if run.spans]
    return Cost(
        math.fsum(run.duration_s for run in runs), math.fsum(energies) if energies else math.nan
    )


def cost_of(cell: Cell, plan: Plan, runs: Sequence[Run]) -> Cost:
    """Estimate the cost of a cell from like runs: of the combination, the model, or all.

    Without runs the seconds in the plan are used.
    """
    done = [run for run in runs if run.study and not run.study.is_idle and run.status == "done"]
    name = cell.run_id.partition("-")[2]
    same = [run for run in done if run.id.partition("-")[2] == name]
    like = [run for run in done if run.model == cell.factors["model"]]
    for group in (same, like, done):
        if group:
            known = [value for run in group if not math.isnan(value := _energy_j(run))]
            return Cost(fmean(run.duration_s for run in group), fmean(known or [math.nan]))
    lengths = [plan.train if phase == "train" else plan.infer for phase in plan.phases]
    is_limit = any(is_bounded(length) for length in lengths)
    seconds = math.fsum(length.seconds or math.nan for length in lengths)
    return Cost(seconds, is_limit=is_limit)


def cost_of_all(cells: Sequence[Cell], plan: Plan, runs: Sequence[Run]) -> Cost:
    """Estimate the cost of several cells, without idle runs."""
    costs = [cost_of(cell, plan, runs) for cell in cells]
    return Cost(
        math.fsum(cost.duration_s for cost in costs),
        math.fsum(cost.energy_j for cost in costs),
        is_limit=any(cost.is_limit for cost in costs),
    )


def _energy_j(run: Run) -> float:
    """Return the gross energy of all that a run did; NaN unless all of it was measured."""
    spans = run.study.spans if run.study else ()
    whole = [span.energy.gross_j for span in spans if span.name in WHOLE_SPANS]
    return math.fsum(whole) if whole else math.nan


def describe_run(run: Run, label: str = "") -> str:
    """Describe a run of a study in one line, which begins with its id or another label."""
    label = label or run.id
    if run.failure is not None:
        return f"{label} failed ({run.failure['kind']}): {run.failure['reason']}"
    assert run.study is not None
    if run.study.is_idle:
        power, load = "power unknown", ""
        for point in idle_points(run):
            power = quantity(math.fsum(point.power_w.values()), "W")
            load = f"; on a busy machine: {point.load_text}" if point.busy_w else ""
        return f"{label} idle {duration(run.energy.duration_s)}, {power}{load}"
    costs = [
        f"{phase} {Cost(result.energy.duration_s, result.energy.gross_j)}"
        + ("" if result.complete else ", cut short by its limit in seconds")
        for phase, result in run.study.results.items()
    ]
    shared = "; on a busy machine" if shared_energies(run) else ""
    return f"{label} {', '.join(costs)}{shared}"


class Display:
    """Shows progress on standard error: a moving bar on a terminal, else one line per run."""

    def __init__(self, total: int, done: int, to_go: Cost) -> None:
        self._total, self._done, self._label = total, done, ""
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[cost]}"),
                console=console,
            )
            self._task = self._bar.add_task(
                "starting", total=total, completed=done, cost=self._left(to_go)
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, label: str) -> None:
        """Show which run starts: its id or another label."""
        self._label = label
        if self._bar is not None:
            self._bar.update(self._task, description=label)

    def phase(self, event: Mapping[str, Any]) -> None:
        """Show the phase and the epoch that the worker began."""
        if self._bar is not None:
            index = event.get("index")
            epoch = "" if index is None else f" {index}"
            where = f"{event.get('phase', '')} {event['name']}{epoch}"
            self._bar.update(self._task, description=f"{self._label} {where}")

    def note(self, text: str) -> None:
        """Print a line."""
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def finish(self, run: Run, so_far: Cost, to_go: Cost, label: str = "") -> None:
        """Print a finished run, by its id or another label, the cost so far, and what is left."""
        self._done += not (run.study and run.study.is_idle)
        text, left = describe_run(run, label), self._left(to_go)
        if self._bar is None:
            spent = ", ".join(filter(None, (f"so far {so_far}", left)))
            self.note(f"[{self._done}/{self._total}] {text}; {spent}")
        else:
            self.note(text)
            cost = ", ".join(filter(None, (f"so far {so_far.energy_text}", left)))
            self._bar.update(self._task, completed=self._done, cost=cost)

    def _left(self, to_go: Cost) -> str:
        """Write what is left, as far as it can be estimated."""
        missing = self._total - self._done
        if not missing:
            return ""
        return f"{to_go.estimate or count(missing, 'cell')} to go"
