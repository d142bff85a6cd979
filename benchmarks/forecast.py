"""Compare forecasts of whole runs from their first epochs with the truth and with simple rules.

``python -m benchmarks.forecast`` replays trainings recorded on a busy machine and training spans
recorded on an H100, and draws random series (half a minute). It prints a table and writes
``benchmarks/results/<date>-forecast.md``. Nothing is trained; see ``benchmarks.forecast_runs``.

The simple rules are the first epoch times the number of epochs, as CarbonTracker predicts, and the
mean of the epochs.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import forecast_h100, forecast_runs, forecast_simulated
from benchmarks.forecast_case import Case, summary

RESULTS = Path(__file__).parent / "results"
HEADER = (
    "", "forecasts", "coverage", "half-width", "error: median", "p90", "time: coverage",
    "first epoch x N", "mean",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("--no-file", action="store_true", help="print the table but write no file")
    options = parser.parse_args()
    groups = grouped()
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = "\n".join([f"# Forecasts of {now}", "", *table(groups)]) + "\n"
    print(text)
    if not options.no_file:
        (RESULTS / f"{now}-forecast.md").write_text(text)


def grouped() -> dict[str, list[Case]]:
    """Make all forecasts, by group; groups of groups come last."""
    groups: dict[str, list[Case]] = {}
    totals: dict[str, list[Case]] = {}
    for case in _cases():
        groups.setdefault(case.group, []).append(case)
        if case.group.startswith("simulated"):
            totals.setdefault("all simulated runs", []).append(case)
            by_length = f"all simulated runs, from {case.forecast.epochs_seen:g} epochs"
            totals.setdefault(by_length, []).append(case)
        if case.group.startswith(f"trainings {forecast_runs.USES['test']}"):
            totals.setdefault("all trainings not used to choose the method", []).append(case)
    return groups | totals


def _cases() -> Iterator[Case]:
    yield from forecast_runs.cases()
    yield from forecast_h100.cases()
    yield from forecast_simulated.cases()


def table(groups: Mapping[str, list[Case]]) -> list[str]:
    """Format one row per group, with errors and half-widths relative to the truth."""
    rows = [HEADER, ("---", *["---:"] * (len(HEADER) - 1))]
    for name, cases in groups.items():
        values = (f"{value:.3g} %" for value in summary(cases).values())
        rows.append((name, str(len(cases)), *values))
    return [f"| {' | '.join(row)} |" for row in rows]


if __name__ == "__main__":
    main()
