"""Compare forecasts of whole runs from their first epochs with the truth and with simple rules.

``python -m benchmarks.forecast`` replays trainings recorded on busy machines and training spans
recorded on an H100, and draws random series (half a minute). It prints a table and writes
``benchmarks/results/<date>-forecast.md``. Nothing is trained; see ``benchmarks.forecast_runs``.

``--against COMMIT`` adds what the package at an earlier commit of this repository forecasts from
the same rows (half a minute more). 31dca85^ was the last with another method.

Why the intervals are not narrower, with coverages and median half-widths:

- Half of the width of 31dca85^ on simulated runs is 3.4 %. Gradient-boosted quantiles of features
  of the profile, fitted to 48,000 other forecasts of this simulation, cover 92.2 % at 3.7 % and
  90.6 % at 3.3 %: even a method made for these runs hardly covers 92 % at half.
- Priors that narrow the simulated runs, also those that learn from the profile how much of its
  scatter is slow, cover fewer trainings: their scatter is slow, and 3 to 10 epochs hardly show it.
  The best one that was found covers 96.2 % of simulated runs at 4.8 %, but only 90 instead of 95 %
  of the trainings on a quiet machine from 5 epochs, and is wider from 3.
- Throttling that begins in the profile is covered at 97 %; of 57 missed runs of other seeds, 56 are
  throttled later, which has no trace in the profile. Covering 92 % takes 1.3 times the width.
- Trainings next to programs that come and go are missed where these do more or less later. Covering
  92 % takes 1.1 times the width, and 2.6 times for those used to choose the method; the simulated
  ones, disturbed less, would need half.

The simple rules are the first epoch times the number of epochs, as CarbonTracker predicts, and the
mean of the epochs.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks import forecast_earlier, forecast_h100, forecast_runs, forecast_simulated
from benchmarks.forecast_case import Case, summary

RESULTS = Path(__file__).parent / "results"
NAMES = ("", "forecasts")
EARLIER = ("before: coverage", "half-width")
HEADER = (
    "coverage", "half-width", "error: median", "p90", "time: coverage",
    "first epoch x N", "mean",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("--no-file", action="store_true", help="print the table but write no file")
    parser.add_argument("--trainings", type=Path, metavar="FILE", help="forecast only these")
    parser.add_argument("--against", metavar="COMMIT", help="add the forecasts of this commit")
    options = parser.parse_args()
    groups = grouped(options.against, options.trainings)
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = "\n".join([f"# Forecasts of {now}", "", *table(groups)]) + "\n"
    print(text)
    if not options.no_file:
        (RESULTS / f"{now}-forecast.md").write_text(text)


def grouped(against: str | None = None, trainings: Path | None = None) -> dict[str, list[Case]]:
    """Make all forecasts, by group, also with another commit; groups of groups come last."""
    cases = list(_cases() if trainings is None else forecast_runs.cases(trainings))
    if against is not None:
        earlier = forecast_earlier.forecasts(against, cases)
        cases = [replace(case, earlier=one) for case, one in zip(cases, earlier, strict=True)]
    groups: dict[str, list[Case]] = {}
    totals: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
        if case.group.startswith("simulated"):
            totals.setdefault("all simulated runs", []).append(case)
            by_length = f"all simulated runs, from {case.forecast.epochs_seen:g} epochs"
            totals.setdefault(by_length, []).append(case)
        if case.group.startswith(forecast_runs.HELD_BACK):
            kind = case.group.split(", ")[2]
            totals.setdefault(f"all {forecast_runs.HELD_BACK}, {kind}", []).append(case)
    return groups | totals


def _cases() -> Iterator[Case]:
    yield from forecast_runs.cases()
    yield from forecast_h100.cases()
    yield from forecast_simulated.cases()


def table(groups: Mapping[str, list[Case]]) -> list[str]:
    """Format one row per group, with errors and half-widths relative to the truth."""
    any_case = next(iter(groups.values()))[0]
    header = (*NAMES, *(EARLIER if any_case.earlier else ()), *HEADER)
    rows = [header, ("---", *["---:"] * (len(header) - 1))]
    for name, cases in groups.items():
        values = (f"{value:.3g} %" for value in summary(cases).values())
        rows.append((name, str(len(cases)), *values))
    return [f"| {' | '.join(row)} |" for row in rows]


if __name__ == "__main__":
    main()
