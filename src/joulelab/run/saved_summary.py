"""Summarize a saved run, with its epochs: ``joulelab show``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from joulelab.energy.estimator import EnergyEstimator, energies_of_spans
from joulelab.errors import JoulelabError
from joulelab.forecast.sources import EPOCH
from joulelab.recording.span_columns import SpanColumns
from joulelab.recording.trace import Trace
from joulelab.run.summary import Epoch, Summary, previous_run
from joulelab.runs.record import Run
from joulelab.runs.selection import open_run
from joulelab.runs.span_tree import run_extent, run_trace


def read_summary(name_or_path: str | os.PathLike[str]) -> Summary:
    """Read a run, as :func:`joulelab.runs.selection.open_run` takes it, and summarize it.

    If the trace is damaged or gone, spans have no nesting, and a note says why.

    Raises:
        UserError: There is no such run, or its record is damaged.
    """
    run = open_run(name_or_path)
    trace, estimator = None, None
    try:
        trace = run_trace(run)
    except JoulelabError as error:
        run = replace(run, notes=(*run.notes, str(error)))
    if trace is not None:
        estimator = EnergyEstimator(trace, run.baseline)
    summary = Summary.of(run, trace, estimator, previous_run(run))
    if run.study is not None:
        epochs = [
            Epoch(one.phase, one.index, one.energy, one.values.get("accuracy_pct"))
            for one in run.study.epochs
        ]
    else:
        epochs = list(_epochs(run, trace, estimator)) if trace and estimator else []
    return replace(summary, epochs=tuple(epochs), is_saved=True)


def _epochs(run: Run, trace: Trace, estimator: EnergyEstimator) -> Iterator[Epoch]:
    """Measure the spans named ``epoch``."""
    groups = epoch_groups(SpanColumns.of(trace.spans).within(*run_extent(run)))
    energies = energies_of_spans(estimator, groups.values())
    for (phase, index), energy in zip(groups, energies, strict=True):
        yield Epoch(phase, index, energy, None)


def epoch_groups(spans: SpanColumns) -> dict[tuple[str, int], SpanColumns]:
    """Return the spans of each epoch, by its phase and index; those of several processes are one.

    Epochs without an index are numbered in each process.
    """
    epochs = spans.named(EPOCH)
    groups: dict[tuple[str, int], list[int]] = {}
    numbers: dict[tuple[str, int], int] = {}
    for at, span in enumerate(epochs):
        phase = str(span.phase or "")
        number = numbers.get((phase, span.key[0]), 0)
        numbers[phase, span.key[0]] = number + 1
        index = span.attributes.get("index", number)
        groups.setdefault((phase, index if isinstance(index, int) else number), []).append(at)
    return {key: epochs.where(np.array(at)) for key, at in groups.items()}
