"""What the person who waits sees, on standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from joulelab.study.estimate import Cost
from joulelab.study.records import phase_figures, spent_j


class Display(Protocol):
    """Shows how a study goes on."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def begins(self, run_id: str) -> None:
        """A run starts."""
        ...

    def phase(self, event: Mapping[str, Any]) -> None:
        """The worker announced something."""
        ...

    def note(self, text: str) -> None:
        """One line of news."""
        ...

    def ended(self, run: Mapping[str, Any], so_far: Cost, to_go: Cost) -> None:
        """A run is finished and stored."""
        ...


def display_for(total: int, done: int) -> Display:
    """A live display when standard error is a terminal, a plain line a run otherwise.

    Args:
        total: Cells of the study.
        done: Those that need not be run.
    """
    console = Console(stderr=True)
    return LiveDisplay(console, total, done) if console.is_terminal else PlainDisplay(total, done)


class PlainDisplay:
    """A line a run."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done = total, done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begins(self, run_id: str) -> None:
        """Says nothing: the line comes at the end."""

    def phase(self, event: Mapping[str, Any]) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """Prints the line."""
        click.echo(text, err=True)

    def ended(self, run: Mapping[str, Any], so_far: Cost, to_go: Cost) -> None:
        """Prints the run, what was spent so far, and what is to go."""
        self._done += run["kind"] == "cell"
        left = f", to go about {to_go}" if self._done < self._total else ""
        self.note(f"[{self._done}/{self._total}] {summary(run)}; so far {so_far}{left}")


class LiveDisplay:
    """A bar that moves, with a line a run above it."""

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

    def begins(self, run_id: str) -> None:
        """Names the run beside the bar."""
        self._run_id = run_id
        self._progress.update(self._task, description=run_id)

    def phase(self, event: Mapping[str, Any]) -> None:
        """Names the phase and the epoch beside the bar."""
        index = event.get("index")
        where = f"{event.get('phase', '')} {event['name']}{'' if index is None else f' {index}'}"
        self._progress.update(self._task, description=f"{self._run_id} {where}")

    def note(self, text: str) -> None:
        """Prints the line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def ended(self, run: Mapping[str, Any], so_far: Cost, to_go: Cost) -> None:
        """Moves the bar."""
        self.note(summary(run))
        self._progress.update(
            self._task,
            advance=int(run["kind"] == "cell"),
            cost=f"so far {so_far.energy_text}, to go {to_go}",
        )


def summary(run: Mapping[str, Any]) -> str:
    """A run in one line."""
    if run["status"] == "failed":
        failure = run["failure"]
        return f"{run['run_id']} failed ({failure['kind']}): {failure['reason']}"
    if run["kind"] == "idle":
        energy_j = spent_j(run)
        spans = run["spans"]
        duration_s = sum(span["stop_ns"] - span["start_ns"] for span in spans) * 1e-9
        power = "power unknown" if energy_j is None else f"{energy_j / duration_s:.3g} W"
        return f"{run['run_id']} idle {duration_s:.1f} s, {power}"
    parts = []
    for phase in run["phases"]:
        duration_s, gross_j = phase_figures(run, phase)
        parts.append(f"{phase} {Cost(duration_s or math.nan, gross_j)}")
    return f"{run['run_id']} {', '.join(parts)}"
