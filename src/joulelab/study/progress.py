"""What a study has cost so far and will still cost, and its progress on standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from joulelab.format import duration, finite_or_none, quantity
from joulelab.runs.record import WHOLE_SPANS, Run
from joulelab.study.cells import Cell
from joulelab.study.plan import Plan


@dataclass(frozen=True, slots=True)
class Cost:
    """Duration and gross energy; NaN if unknown.

    Example:
        >>> str(Cost(95.0, 12345.0)), str(Cost(8.0)), str(Cost())
        ('1 min 35 s, 12.3 kJ', '8.00 s, energy unknown', 'unknown')
    """

    duration_s: float = math.nan
    energy_j: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.duration_s) and math.isnan(self.energy_j):
            return "unknown"
        time = "time unknown" if math.isnan(self.duration_s) else duration(self.duration_s)
        return f"{time}, {self.energy_text}"

    @property
    def energy_text(self) -> str:
        """The energy with its unit."""
        return "energy unknown" if math.isnan(self.energy_j) else quantity(self.energy_j, "J")

    def to_json(self) -> dict[str, float | None]:
        """Return plain values."""
        data: dict[str, float | None] = finite_or_none(
            {"duration_s": self.duration_s, "energy_j": self.energy_j}
        )
        return data


def spent(runs: Iterable[Run]) -> Cost:
    """Add up what finished runs cost, idle and failed ones included."""
    runs = list(runs)
    energies = [_energy_j(run) for run in runs if run.spans]
    return Cost(
        math.fsum(run.duration_s for run in runs), math.fsum(energies) if energies else math.nan
    )


def cost_of(cell: Cell, plan: Plan, runs: Sequence[Run]) -> Cost:
    """Estimate the cost of a cell.

    From runs of the same combination; else of the same model; else from all; else from the
    seconds in the plan.
    """
    done = [run for run in runs if run.study and not run.study.is_idle and run.status == "done"]
    name = cell.run_id.partition("-")[2]
    same = [run for run in done if run.id.partition("-")[2] == name]
    like = [run for run in done if run.model == cell.factors["model"]]
    for group in (same, like, done):
        if group:
            known = [value for run in group if not math.isnan(value := _energy_j(run))]
            return Cost(fmean(run.duration_s for run in group), fmean(known or [math.nan]))
    lengths = {"train": plan.train.seconds, "infer": plan.infer.seconds}
    return Cost(math.fsum(lengths[phase] or math.nan for phase in plan.phases))


def cost_of_all(cells: Sequence[Cell], plan: Plan, runs: Sequence[Run]) -> Cost:
    """Estimate the cost of several cells, without idle runs."""
    costs = [cost_of(cell, plan, runs) for cell in cells]
    return Cost(
        math.fsum(cost.duration_s for cost in costs), math.fsum(cost.energy_j for cost in costs)
    )


def _energy_j(run: Run) -> float:
    """Gross energy of all that a run did; NaN unless all of it was measured."""
    spans = run.study.spans if run.study else ()
    whole = [span.energy.gross_j for span in spans if span.name in WHOLE_SPANS]
    return math.fsum(whole) if whole else math.nan


def describe_run(run: Run) -> str:
    """Describe a run of a study in one line."""
    if run.failure is not None:
        return f"{run.id} failed ({run.failure['kind']}): {run.failure['reason']}"
    assert run.study is not None
    if run.study.is_idle:
        power = quantity(run.energy.mean_power_w, "W") if run.energy.components else "power unknown"
        return f"{run.id} idle {duration(run.energy.duration_s)}, {power}"
    costs = [
        f"{phase} {Cost(result.energy.duration_s, result.energy.gross_j)}"
        for phase, result in run.study.results.items()
    ]
    return f"{run.id} {', '.join(costs)}"


class Display(Protocol):
    """Shows the progress of a study."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def start(self, run_id: str) -> None:
        """A run starts."""
        ...

    def phase(self, event: Mapping[str, Any]) -> None:
        """The worker began a span."""
        ...

    def note(self, text: str) -> None:
        """Show a line."""
        ...

    def finish(self, run: Run, so_far: Cost, to_go: Cost) -> None:
        """A run is finished and stored."""
        ...


def display_for(total: int, done: int) -> Display:
    """Make a live display if standard error is a terminal, one of plain lines otherwise.

    Args:
        total: Number of cells of the study.
        done: Number of cells that are finished already.
    """
    console = Console(stderr=True)
    return LiveDisplay(console, total, done) if console.is_terminal else PlainDisplay(total, done)


class PlainDisplay:
    """One line per run."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done = total, done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, run_id: str) -> None:
        """Show nothing."""

    def phase(self, event: Mapping[str, Any]) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Print the line."""
        click.echo(text, err=True)

    def finish(self, run: Run, so_far: Cost, to_go: Cost) -> None:
        """Print the run, the cost so far, and an estimate of the rest."""
        self._done += not (run.study and run.study.is_idle)
        left = f", to go about {to_go}" if self._done < self._total else ""
        self.note(f"[{self._done}/{self._total}] {describe_run(run)}; so far {so_far}{left}")


class LiveDisplay:
    """A progress bar, with a line per run above it."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[cost]}"),
            console=console,
        )
        self._task = self._progress.add_task("starting", total=total, completed=done, cost="")
        self._run_id = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, run_id: str) -> None:
        """Show the run next to the bar."""
        self._run_id = run_id
        self._progress.update(self._task, description=run_id)

    def phase(self, event: Mapping[str, Any]) -> None:
        """Show the phase and the epoch next to the bar."""
        index = event.get("index")
        where = f"{event.get('phase', '')} {event['name']}{'' if index is None else f' {index}'}"
        self._progress.update(self._task, description=f"{self._run_id} {where}")

    def note(self, text: str) -> None:
        """Print the line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def finish(self, run: Run, so_far: Cost, to_go: Cost) -> None:
        """Advance the bar."""
        self.note(describe_run(run))
        self._progress.update(
            self._task,
            advance=int(not (run.study and run.study.is_idle)),
            cost=f"so far {so_far.energy_text}, to go {to_go}",
        )
