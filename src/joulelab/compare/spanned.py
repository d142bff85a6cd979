"""The spans of one name that a job marked, in place of the whole job."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from joulelab.compare.measurement import Measurement
from joulelab.energy.estimator import EnergyEstimator, energy_of_spans
from joulelab.errors import UserError, nearest
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import READINGS_FILE
from joulelab.runs.job import FINISHED_FILE, STARTED_FILE
from joulelab.runs.job_energy import baseline_of


def spanned(measurement: Measurement, name: str) -> Measurement:
    """The job's spans of that name; its figures are those of one of them, on average.

    Its spans are no repeats: what one run has in common, all of them have.

    Args:
        measurement: A job.
        name: Of the spans.

    Raises:
        UserError: It has no such span, or its readings are elsewhere.
        TraceError: The trace is damaged.
    """
    directory = measurement.directory
    if not (directory / READINGS_FILE).exists():
        raise UserError(
            f"{directory} has no readings of its own",
            why="it was recorded by the job that it ran in",
            hint="compare the outer jobs",
        )
    trace = read_trace(directory)
    spans = trace.finished_spans
    chosen = [span for span in spans if span.name == name]
    if not chosen:
        known = dict.fromkeys(span.name for span in spans)
        hint = nearest(name, known) if known else "mark spans with joulelab.Meter in the program"
        raise UserError(f"{measurement.run} has no span {name!r}", hint=hint)
    record = directory / FINISHED_FILE
    record = record if record.exists() else directory / STARTED_FILE
    baseline = baseline_of(json.loads(record.read_bytes()).get("baseline"))
    energy = energy_of_spans(EnergyEstimator(trace, baseline), chosen)
    # Ranks of a job are in one span together, whose time and energy count once.
    by_process = Counter(pid for pid, _ in (span.key for span in chosen))
    return replace(measurement, energy=energy, pieces=max(by_process.values()))
