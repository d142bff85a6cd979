"""Compare forecasts of whole runs from their first few percent with two simple rules.

``python -m benchmarks.forecast`` trains small models on this machine's CPU, a process each (seven
minutes on two cores that do nothing else), replays the training spans recorded on an H100, and
draws random series in memory. It prints three tables and writes
``benchmarks/results/<date>-forecast.md``.

The simple rules are the first epoch times the number of epochs, as CarbonTracker's prediction does
it (it waits for the first epoch to end, however much of the run that is), and the profile's mean.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import forecast_h100, forecast_runs, forecast_simulated
from benchmarks.forecast_case import Case

RESULTS = Path(__file__).parent / "results"
HEADER = (
    "", "runs", "spent", "energy: median", "p90", "coverage", "half-width", "time: median",
    "coverage", "first epoch x N: median", "p90", "mean of profile: median", "p90",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("--only", choices=tuple(PARTS), help="compute only this table")
    parser.add_argument("--no-file", action="store_true", help="print the tables but write no file")
    options = parser.parse_args()
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [f"# Forecasts of {now}", "", f"{platform.processor() or platform.machine()}, Linux."]
    for name, part in PARTS.items():
        if options.only in (None, name):
            lines += ["", *part()]
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.no_file and options.only is None:
        (RESULTS / f"{now}-forecast.md").write_text(text)


def real() -> list[str]:
    """Format the table of trainings on this machine."""
    cases = [case for run in forecast_runs.RUNS for case in forecast_runs.cases(run)]
    most = max(forecast_runs.CUTS)
    return [
        "## Trainings on this machine's CPU",
        "",
        "Each run is forecast from the steps and epochs within its first few percent. "
        f"*{forecast_runs.MEASURED}*: time and power (measured, or estimated from utilisation) of "
        f"this machine, including other work; its load was {_load()} when the last run ended. "
        f"*{forecast_runs.CPU_TIME}*: the CPU time of the same steps, at a simulated power that "
        "rises by 3 % within minutes.",
        "",
        *table(_by(cases, lambda case: f"{case.kind}, the first {100 * case.cut:g} %")),
        "",
        f"Each run, from the first {100 * most:g} %:",
        "",
        *table(
            _by(
                (case for case in cases if case.cut == most),
                lambda case: f"{case.name}; {case.kind}",
            )
        ),
    ]


def _load() -> str:
    """Format the number of runnable processes, a mean over five minutes."""
    return f"{os.getloadavg()[1]:.1f} on {os.cpu_count()} processors"


def h100() -> list[str]:
    """Format the table of replays of a recording."""
    cases = forecast_h100.cases()
    return [
        "## Training spans recorded on an H100",
        "",
        "48 spans of 1.3 to 3.1 s (tests/data/h100), divided into 100 sections of equal time, so "
        "the time is trivial here. 3 % are three sections with a few readings of the sensor each.",
        "",
        *table(_by(cases, lambda case: f"the first {100 * case.cut:g} %")),
    ]


def simulated() -> list[str]:
    """Format the table of random series."""
    return [
        "## Simulated series",
        "",
        f"{forecast_simulated.RUNS} random runs per row. The first epoch is the first piece.",
        "",
        *table(_by(forecast_simulated.cases(), lambda case: case.name)),
    ]


PARTS: Mapping[str, Callable[[], list[str]]] = {"real": real, "h100": h100, "simulated": simulated}


def table(groups: Mapping[str, Sequence[Case]]) -> list[str]:
    """Format one row per group, with errors and half-widths relative to the truth."""
    rows = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)]]
    rows += [[name, *_row(group)] for name, group in groups.items()]
    return [f"| {' | '.join(row)} |" for row in rows]


def _row(cases: Sequence[Case]) -> list[str]:
    energy = [case.error(case.forecast.gross_j) for case in cases]
    time = [abs(case.forecast.duration_s / case.truth_s - 1) for case in cases]
    first = [case.error(case.first_j) for case in cases]
    mean = [case.error(case.mean_j) for case in cases]
    widths = [case.half_width for case in cases]
    spent = [case.spent for case in cases]
    return [
        str(len(cases)),
        _percent(np.median(spent)),
        _percent(np.median(energy)),
        _percent(np.quantile(energy, 0.9)),
        _percent(np.mean([case.energy_covered for case in cases]), digits=0),
        _percent(np.median(widths)),
        _percent(np.median(time)),
        _percent(np.mean([case.time_covered for case in cases]), digits=0),
        _percent(np.median(first)),
        _percent(np.quantile(first, 0.9)),
        _percent(np.median(mean)),
        _percent(np.quantile(mean, 0.9)),
    ]


def _percent(share: float | np.floating, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _by(cases: Iterable[Case], key: Callable[[Case], str]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    return groups


if __name__ == "__main__":
    main()
