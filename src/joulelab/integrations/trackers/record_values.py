"""Take the values that a tracker gets from a finished run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from joulelab import __version__
from joulelab.carbon.costs import Costs
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.estimator import EnergyEstimator, energies_of_spans
from joulelab.forecast.sources import EPOCH
from joulelab.integrations.metrics import known
from joulelab.integrations.trackers.tracked_run import (
    EPOCHS,
    LABEL,
    SPANS,
    TOTAL,
    Metrics,
    Row,
    TrackedRun,
)
from joulelab.meter import IDLE_SPAN, METRICS_SPAN
from joulelab.recording.span_columns import SpanColumns
from joulelab.recording.trace import Trace
from joulelab.run.saved_summary import epoch_groups
from joulelab.run.summary import Summary
from joulelab.runs.record import Run
from joulelab.runs.span_tree import run_extent

MOST_NAMES = 50
"""Names of spans that are logged: those with the most spans are left out first."""


def tracked_run(
    run: Run,
    trace: Trace | None,
    estimator: EnergyEstimator | None,
    page: Callable[[], bytes | None],
) -> TrackedRun:
    """Take the values of a finished run; those of its epochs need the trace."""
    costs = Summary.of(run, trace, estimator, None).costs
    rows = () if trace is None or estimator is None else _rows(run, trace, estimator)
    return TrackedRun(
        id=run.id,
        name=run.name,
        started_unix_s=run.started_unix_s,
        ended_unix_s=run.ended_unix_s,
        rows=tuple(rows),
        totals=dict(_totals(run, costs)),
        labels={LABEL + name: text for name, text in _labels(run, costs) if text},
        record=json.dumps(run.to_json(), indent=1),
        page=page,
    )


def _totals(run: Run, costs: Costs) -> Iterator[tuple[str, float]]:
    energy = run.energy
    values = {**_values(energy), "duration_s": run.duration_s}
    known = costs.to_json()
    values |= {name: known[name] for name in ("carbon_g", "carbon_low_g", "carbon_high_g")}
    unit = f"_{costs.currency or ''}".lower()
    values |= {name + unit: known[name] for name in ("price", "price_low", "price_high")}
    yield from _named(TOTAL, values)
    for name, part in _meters(energy).items():
        yield from _named(f"{TOTAL}{name}_", _values(part))
    totals = sorted(run.spans, key=lambda one: one.count)[:MOST_NAMES]
    for total in totals:
        spans = {
            "gross_j": total.gross_j,
            "gross_low_j": total.low_j,
            "gross_high_j": total.high_j,
            "net_j": total.net_j,
            "duration_s": total.duration_s,
            "count": total.count,
        }
        yield from _named(f"{SPANS}{_clean(total.name)}_", spans)


def _meters(energy: Energy) -> dict[str, ComponentEnergy]:
    """Return the components, and the meters that contain some and are not in the total."""
    around = {f"enclosing_{name}": part for name, part in energy.enclosing.items()}
    both = {**energy.components, **around}
    return {_clean(name.replace(":", "")): part for name, part in both.items()}


def _labels(run: Run, costs: Costs) -> Iterator[tuple[str, str]]:
    energy = run.energy
    yield "run_id", run.id
    yield "run_name", run.name
    yield "run_directory", str(run.directory.absolute())
    yield "host", run.host
    yield "status", run.status
    yield "version", __version__
    yield "provenance", str(energy.provenance) if energy.components else ""
    for name, part in _meters(energy).items():
        yield f"source.{name}", f"{part.provenance} ({part.source})"
    yield "absent", "; ".join(f"{name}: {why}" for name, why in energy.absent.items())
    yield "notes", "; ".join((*energy.caveats, *run.notes))
    yield "carbon_intensity", str(costs.factor or "")


def _rows(run: Run, trace: Trace, estimator: EnergyEstimator) -> Iterator[Row]:
    spans = SpanColumns.of(trace.spans).within(*run_extent(run))
    groups = epoch_groups(spans)
    named: list[list[tuple[str, SpanColumns]]] = [
        [(f"{phase}_{EPOCH}" if phase else EPOCH, group)] for (phase, _), group in groups.items()
    ]
    for number, name, group in _parts(spans, list(groups.values())):
        named[number].append((name, group))
    energies = iter(energies_of_spans(estimator, (group for row in named for _, group in row)))
    for (_, index), row in zip(groups, named, strict=True):
        metrics: Metrics = {}
        for name, _ in row:
            metrics |= _named(f"{EPOCHS}{_clean(name)}_", _values(next(energies)))
        epoch = row[0][1]
        step = next(iter(epoch)).attributes.get("step", index)
        since_start_s = (epoch.windows.latest_ns - (run.start_ns or 0)) * 1e-9
        yield Row(
            epoch=index,
            step=step if isinstance(step, int) else index,
            ended_unix_s=run.started_unix_s + since_start_s,
            metrics=metrics,
        )


def _parts(
    spans: SpanColumns, epochs: Sequence[SpanColumns]
) -> Iterator[tuple[int, str, SpanColumns]]:
    """Yield the spans of each name that lie between the starts of an epoch and of the next one."""
    starts = np.array([one.spans["start_ns"].min() for one in epochs], np.int64)
    order = np.argsort(starts, kind="stable")
    edges = np.append(starts[order], np.iinfo(np.int64).max)
    positions = {
        name: at
        for name, at in spans.positions().items()
        if name not in (EPOCH, IDLE_SPAN, METRICS_SPAN)
    }
    for name in sorted(positions, key=lambda one: len(positions[one]))[:MOST_NAMES]:
        at = positions[name]
        number = np.searchsorted(edges, spans.spans["start_ns"][at], "right") - 1
        is_inside = (number >= 0) & (spans.spans["stop_ns"][at] <= edges[number + 1])
        at, number = at[is_inside], number[is_inside]
        for one in np.unique(number):
            yield int(order[one]), name, spans.where(at[number == one])


def _values(energy: Energy | ComponentEnergy) -> dict[str, float]:
    low_j, high_j = energy.interval_j
    net_low_j, net_high_j = energy.net_interval_j
    return {
        "gross_j": energy.gross_j,
        "gross_low_j": low_j,
        "gross_high_j": high_j,
        "net_j": energy.net_j,
        "net_low_j": net_low_j,
        "net_high_j": net_high_j,
        "job_j": energy.job_j,
        "duration_s": energy.duration_s,
        "mean_power_w": energy.mean_power_w,
    }


def _named(prefix: str, values: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    return known(
        {prefix + name: float(value) for name, value in values.items() if value is not None}
    ).items()


def _clean(name: str) -> str:
    """Replace what some tracker does not take in a name.

    Example:
        >>> _clean("forward{1}/a"), _clean("gpu0")
        ('forward_1__a', 'gpu0')
    """
    return re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)
