"""Output of ``joulelab tune``: its progress on standard error, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.status import Status

from joulelab.cli.output import echo, output_console, value_table
from joulelab.format import (
    duration,
    interval,
    number,
    percent,
    quantity,
    scale,
    sentence,
    time_scale,
)
from joulelab.tune.knobs import settings_text
from joulelab.tune.probes import Probe, Settings
from joulelab.tune.result import Estimate, FrontPoint, Result
from joulelab.tune.text import headline, probes_text
from joulelab.tune.tuning import LeftOut, Outcome, Workload


class SearchDisplay:
    """Shows each probe in a line; on a terminal also what is being measured. A context manager.

    Args:
        work: What is measured.
        is_silent: Whether the work itself prints nothing, which a moving line would mix with.
    """

    def __init__(self, work: Workload, *, is_silent: bool) -> None:
        self._work, self._probes, self._best = work, 0, ""
        terminal = Console(stderr=True)
        has_status = is_silent and terminal.is_terminal
        self._status = Status("starting", console=terminal) if has_status else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def begin(self, settings: Settings) -> None:
        """Show that these settings are measured now."""
        if self._status is not None:
            self._status.update(f"measuring {settings_text(settings)}{self._best}")

    def measured(self, probe: Probe, best: Result | None) -> None:
        """Show a probe, and the best settings so far once the baseline is known."""
        self._probes += 1
        if best is not None and best.settings != best.baseline:
            saving = percent(best.saving.value)
            self._best = f"; best so far: {settings_text(best.settings)}, saves {saving}"
        else:
            self._best = ""
        time, energy = duration(probe.duration_s), quantity(probe.energy_j, "J")
        values = f"{time}, {energy} per {self._work.unit}"
        self._print(f"[{self._probes}] {settings_text(probe.settings)}: {values}{self._best}")

    def left_out(self, what: LeftOut) -> None:
        """Show that settings cannot be measured."""
        self._print(f"left out: {what}")

    def _print(self, text: str) -> None:
        if self._status is None:
            echo(text, err=True)
        else:
            self._status.console.print(text, markup=False, highlight=False)


def print_outcome(outcome: Outcome, apply: Sequence[str], page: Path | None) -> None:
    """Print what a search on real work found, cost and left out."""
    base = outcome.baseline
    time, energy = (Estimate(one, one, one) for one in (base.duration_s, base.energy_j))
    baseline = FrontPoint(base.settings, time, energy)
    print_result(outcome.result, f" per {outcome.unit}", baseline)
    if outcome.ended_early:
        echo(f"The search is not complete: {outcome.ended_early}.")
    for one in outcome.left_out:
        echo(f"Left out: {one}.")
    for note in outcome.notes:
        echo(sentence(note))
    echo(f"{outcome.cost_text()}.")
    for command in apply:
        echo(f"Apply:   {command}")
    if page is not None:
        echo(f"Page:    {page}")


def print_result(result: Result, per_unit: str = "", baseline: FrontPoint | None = None) -> None:
    """Print a result: the settings, what they save, and the front."""
    echo(headline(result))
    front = list(result.front)
    if baseline is not None and all(one.settings != baseline.settings for one in front):
        front.append(baseline)
    slowest = max((point.duration_s.value for point in front), default=1.0)
    largest = max((point.energy_j.value for point in front), default=1.0)
    second, unit_of_time = time_scale(slowest)
    joule, unit_of_energy = scale(largest, "J")
    headings = [f"{unit_of_time}{per_unit}", "95 % CI", f"{unit_of_energy}{per_unit}", "95 % CI"]
    table = value_table("settings", [*headings, ""])
    for point in front:
        is_base, is_choice = (point.settings == one for one in (result.baseline, result.settings))
        marks = ["baseline"] * is_base + ["choice"] * (is_choice and not is_base)
        table.add_row(
            settings_text(point.settings),
            *_cells(point.duration_s, second),
            *_cells(point.energy_j, joule),
            *(marks or [""]),
        )
    output_console().print(table)
    echo(f"{sentence(probes_text(result))}")


def _cells(estimate: Estimate, size: float) -> tuple[str, str]:
    value, low, high = (one / size for one in (estimate.value, estimate.low, estimate.high))
    return number(value), "" if low == high else interval(low, high, value)
