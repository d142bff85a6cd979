"""What a job took: the whole of it, and the spans that it marked from inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import Energy
from joulelab.energy.estimator import EnergyEstimator, energy_of_spans
from joulelab.recording.trace import Trace, TraceReader
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.recording.trace_spans import TraceSpan, Window
from joulelab.runs.span_total import SpanTotal


@dataclass(frozen=True, slots=True)
class JobAccount:
    """The energy of a job.

    Attributes:
        energy: From the command's start to its end.
        spans: What was marked within that time, by name, in the order in which names appeared.
    """

    energy: Energy
    spans: tuple[SpanTotal, ...]


def account(
    trace: Trace, start_ns: int, stop_ns: int, baseline: Baseline | None = None
) -> JobAccount:
    """The energy of a job from its trace.

    Args:
        trace: Of the machine while it ran.
        start_ns: When the command started, CLOCK_MONOTONIC.
        stop_ns: When it ended.
        baseline: Idle power on CLOCK_MONOTONIC seconds.
    """
    accounts = EnergyEstimator(trace, baseline)
    by_name: dict[str, list[TraceSpan]] = {}
    for span in trace.spans:
        if span.stop_ns is not None and start_ns <= span.start_ns and span.stop_ns <= stop_ns:
            by_name.setdefault(span.name, []).append(span)
    (energy,) = accounts.energies([Window(start_ns, stop_ns)])
    return JobAccount(
        energy, tuple(_total(accounts, name, spans) for name, spans in by_name.items())
    )


def account_until_last_reading(directory: Path, data: Mapping[str, Any]) -> JobAccount:
    """The energy of a job that has not finished, as far as it was seen.

    Args:
        directory: The job's.
        data: What its ``job.json`` says.

    Raises:
        TraceError: The trace is damaged.
    """
    if data["joined"] is not None:
        reason = f"its readings are in {data['joined']}, and when it ended was not recorded"
        return nothing(reason)
    if not (directory / READINGS_FILE).exists():
        return nothing("recording had not begun")
    trace = TraceReader(directory).read()
    last_ns = max((int(one.t_ns[-1]) for one in trace.series if one.t_ns.size), default=0)
    if last_ns <= data["start_ns"]:
        return nothing("there is no reading")
    return account(trace, data["start_ns"], last_ns, baseline_of(data["baseline"]))


def baseline_of(points: Sequence[Mapping[str, Any]] | None) -> Baseline | None:
    """The idle power that a record holds."""
    if points is None:
        return None
    return Baseline(tuple(IdlePoint.from_json(point) for point in points))


def nothing(reason: str) -> JobAccount:
    """The account of a job of which nothing was seen."""
    return JobAccount(Energy(duration_s=math.nan, absent={"all": reason}), ())


def _total(accounts: EnergyEstimator, name: str, spans: Sequence[TraceSpan]) -> SpanTotal:
    energy = energy_of_spans(accounts, spans)
    low_j, high_j = energy.interval_j
    return SpanTotal(
        name=name,
        count=len(spans),
        duration_s=energy.duration_s,
        gross_j=energy.gross_j,
        low_j=low_j,
        high_j=high_j,
        net_j=energy.net_j,
    )
