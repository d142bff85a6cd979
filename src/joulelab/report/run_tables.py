"""Tables of a run's page: nested spans, epochs and components."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.format import duration, number, percent, quantity
from joulelab.report.facts import interval_text
from joulelab.report.provenance import component_name
from joulelab.run.summary import Epoch, Summary
from joulelab.uncertain import Interval

MOST_ROWS = 60
"""Rows of a table of spans or epochs."""


class _Cell(NamedTuple):
    """A cell of a table: its text, the value by which it is sorted, and what stands below."""

    text: str
    order: float
    below: str = ""


def _joules(value_j: float, ends_j: Interval | None = None) -> _Cell:
    below = "" if ends_j is None else interval_text(value_j, ends_j)
    return _Cell(quantity(value_j, "J"), value_j, below)


def _seconds(value_s: float) -> _Cell:
    return _Cell(duration(value_s), value_s)


def _accuracy(value_pct: float | None) -> _Cell:
    return _Cell("", math.nan) if value_pct is None else _Cell(f"{number(value_pct)} %", value_pct)


def span_table(summary: Summary) -> dict[str, Any]:
    """Return the nested spans, each below the one around it; the least energy is left out."""
    gross_j = summary.run.energy.gross_j
    rows = [row for one in summary.tree for row in one.walk()]
    by_energy = sorted(range(len(rows)), key=lambda i: -np.nan_to_num(rows[i][1].total.gross_j))
    has_net = math.isfinite(summary.run.energy.net_j)
    cells = []
    for i in sorted(by_energy[:MOST_ROWS]):
        depth, node = rows[i]
        total = node.total
        # Spans of processes at the same time are longer, added up, than what they cover.
        is_sum = math.isclose(total.count * node.mean_s, total.duration_s, rel_tol=1e-6)
        each_j = total.gross_j / total.count if is_sum else math.nan
        share = total.gross_j / gross_j if gross_j > 0 else math.nan
        cells.append(
            {
                "name": node.name,
                "depth": min(depth, 6),
                "cells": [
                    _joules(total.gross_j, (total.low_j, total.high_j)),
                    _Cell(percent(share), share),
                    _joules(node.self_j),
                    *([_joules(total.net_j)] if has_net else []),
                    _Cell(f"{total.count:,}", total.count),
                    _joules(each_j),
                    _seconds(total.duration_s),
                    _seconds(node.mean_s),
                ],
            }
        )
    return {"rows": cells, "has_net": has_net, "left_out": len(rows) - len(cells)}


def epoch_table(epochs: Sequence[Epoch], *, has_net: bool) -> dict[str, Any]:
    """Return a row for each epoch, the first ones of many."""
    has_accuracy = any(one.accuracy_pct is not None for one in epochs)
    rows = [
        {
            "name": f"{one.phase} {one.index}".strip(),
            "order": i,
            "cells": [
                _joules(one.energy.gross_j, one.energy.interval_j),
                *([_joules(one.energy.net_j)] if has_net else []),
                _seconds(one.energy.duration_s),
                _Cell(quantity(one.energy.mean_power_w, "W"), one.energy.mean_power_w),
                *([_accuracy(one.accuracy_pct)] if has_accuracy else []),
            ],
        }
        for i, one in enumerate(epochs[:MOST_ROWS])
    ]
    left_out = len(epochs) - len(rows)
    return {"rows": rows, "left_out": left_out, "has_accuracy": has_accuracy}


def component_table(energy: Energy) -> list[list[tuple[str, str]]]:
    """Return the cells of each component, each with its interval."""
    rows = []
    for name, part in energy.components.items():
        rows.append(_component_row(component_name(name), str(part.provenance), part))
    for name, part in energy.enclosed.items():
        rows.append(_component_row(component_name(name), f"{part.provenance}, not added", part))
    for one in energy.enclosures:
        name = " + ".join(map(component_name, one.meters))
        meters = Energy(duration_s=energy.duration_s, components=one.meters)
        rows.append(_component_row(name, "not added", meters))
    return rows


def _component_row(name: str, tag: str, energy: Energy | ComponentEnergy) -> list[tuple[str, str]]:
    net_j, job_j = energy.net_j, energy.job_j
    net = interval_text(net_j, energy.net_interval_j) if math.isfinite(net_j) else ""
    job = interval_text(job_j, energy.job_interval_j) if math.isfinite(job_j) else ""
    return [
        (name, tag),
        (quantity(energy.gross_j, "J"), interval_text(energy.gross_j, energy.interval_j)),
        (quantity(net_j, "J"), net),
        (quantity(job_j, "J"), job),
        (quantity(energy.mean_power_w, "W"), ""),
    ]
