"""Compare forecasts of whole runs from their first epochs with the truth and with simple rules.

``python -m benchmarks.forecast`` replays trainings recorded on a busy machine and training spans
recorded on an H100, and draws random series (half a minute). It prints a table and writes
``benchmarks/results/<date>-forecast.md``. Nothing is trained; see ``benchmarks.forecast_runs``.

*Before* is the method of the first release, computed with the same command on the same runs
(``--save-before`` with the sources of commit 9019ec7, whose rows have no ``is_shared``). The simple
rules are the first epoch times the number of epochs, as CarbonTracker predicts, and the mean of the
epochs.
"""

from __future__ import annotations

import argparse
import csv
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import forecast_h100, forecast_runs, forecast_simulated
from benchmarks.forecast_case import Case, summary

RESULTS = Path(__file__).parent / "results"
BEFORE = RESULTS / "forecast-before.csv"
HEADER = (
    "", "forecasts", "before: coverage", "half-width", "now: coverage", "half-width",
    "error: median", "p90", "time: coverage", "first epoch x N", "mean",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("--no-file", action="store_true", help="print the table but write no file")
    parser.add_argument("--save-before", action="store_true", help="save the numbers to compare to")
    options = parser.parse_args()
    groups = grouped()
    if options.save_before:
        save(groups)
        return
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = "\n".join([f"# Forecasts of {now}", "", *table(groups, read_before())]) + "\n"
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


def table(groups: Mapping[str, list[Case]], before: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Format one row per group, with errors and half-widths relative to the truth."""
    rows = [HEADER, ("---", *["---:"] * (len(HEADER) - 1))]
    for name, cases in groups.items():
        found = {key: f"{value:.3g} %" for key, value in summary(cases).items()}
        old = before.get(name, {})
        values = (
            str(len(cases)), old.get("coverage", ""), old.get("half-width", ""), *found.values(),
        )  # fmt: skip
        rows.append((name, *values))
    return [f"| {' | '.join(row)} |" for row in rows]


def save(groups: Mapping[str, list[Case]]) -> None:
    """Save the coverage and half-width of each group."""
    with BEFORE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("group", "coverage", "half-width"))
        for name, cases in groups.items():
            found = summary(cases)
            writer.writerow((name, *(f"{found[key]:.3g} %" for key in ("coverage", "half-width"))))


def read_before() -> dict[str, dict[str, str]]:
    """Read what :func:`save` wrote."""
    with BEFORE.open(newline="") as file:
        return {row.pop("group"): row for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
