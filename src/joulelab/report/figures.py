"""Figures: each a function from a table to a figure.

Each takes one study's table and raises :class:`~joulelab.report.style.NothingToDraw`, with the
reason, where its data are missing: an empty axis is never drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from joulelab.analysis.summary import FACTORS, varying
from joulelab.report.labels import label_points
from joulelab.report.style import (
    COMPONENT_COLOURS,
    COMPONENT_NAMES,
    INK,
    MARKERS,
    PHASE_COLOURS,
    PHASE_NAMES,
    QUIET,
    WIDTH_IN,
    NothingToDraw,
    drawing,
    laid_out,
    plain_numbers,
    plain_rows,
)

PER = 1000
"""Samples that time and energy are stated for."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a kind of component may draw, all of them together.

    Attributes:
        kind: ``"gpu"`` or ``"cpu"``.
        power_w: The limit.
        text: What it is, as ``"GPU limit 350 W"``.
    """

    kind: str
    power_w: float
    text: str


def names(table: pd.DataFrame) -> pd.Series[str]:
    """A name for each row: the model, with what else varies in the table.

    Example:
        >>> names(pd.DataFrame({"model": ["LeNet", "LeNet"], **dict.fromkeys(FACTORS, 1),
        ...     "batch_size": [8, 16]})).tolist()
        ['LeNet · batch size 8', 'LeNet · batch size 16']
    """
    extra = varying(table, ("host", *FACTORS) if "host" in table else FACTORS)
    plain = {"host": "", "dataset": "", "precision": "", "memory_format": "", "optimizer": ""}
    texts = []
    for _, row in table.iterrows():
        words = [f"{plain.get(name, name.replace('_', ' '))} {row[name]}".strip() for name in extra]
        texts.append(" · ".join([str(row["model"]), *words]))
    return pd.Series(texts, index=table.index, dtype="str")


def duration(table: pd.DataFrame) -> Figure:
    """Time for 1,000 samples in training and inference (Fig. 2 of the paper).

    Args:
        table: As :func:`joulelab.analysis.summary.summary` gives it, of one study.

    Raises:
        NothingToDraw: No duration is known.
    """
    known = _known(table, "duration_s_per_sample", "no run's duration is known")
    order = _order(known, "duration_s_per_sample")
    phases = _phases(known)
    with drawing():
        figure, axes = _rows_figure(len(order) * (0.5 + 0.5 * len(phases)))
        height = 0.8 / len(phases)
        for place, phase in enumerate(phases):
            part = known[known["phase"] == phase]
            at = [order[name] + (place - (len(phases) - 1) / 2) * height for name in part["name"]]
            value = PER * part["duration_s_per_sample"]
            axes.barh(at, value, height * 0.92, color=PHASE_COLOURS[phase], zorder=2)
            _bars(axes, at, part, "duration_s_per_sample")
        axes.set_yticks(list(order.values()), list(order))
        axes.set_xlabel(f"Time for {PER:,} samples (s)")
        axes.set_xlim(left=0)
        plain_rows(axes, len(order))
        _phase_legend(figure, phases)
        laid_out(figure)
    return figure


def power(table: pd.DataFrame, limits: Sequence[Limit] = ()) -> Figure:
    """Mean power by component, stacked, with the idle power (Fig. 3 of the paper).

    Args:
        table: As :func:`joulelab.analysis.summary.summary` gives it, of one study.
        limits: Lines to draw. Only that of the component that is stacked first is drawn, since
            only there a bar's end can be compared with it.

    Raises:
        NothingToDraw: No component's power is known.
    """
    kinds = [kind for kind in COMPONENT_COLOURS if table[f"{kind}_power_w"].notna().any()]
    if not kinds:
        raise NothingToDraw("no component's power was measured or estimated")
    known = _known(table, f"{kinds[0]}_power_w", "no power is known")
    order = _order(known, "mean_power_w")
    phases = _phases(known)
    shown = [limit for limit in limits if limit.kind == kinds[0]]
    with drawing():
        figure, panels = _panels(phases, len(order))
        for axes, phase in zip(panels, phases, strict=True):
            part = known[known["phase"] == phase]
            at = np.array([order[name] for name in part["name"]], dtype=float)
            left = np.zeros(len(part))
            for kind in kinds:
                value = part[f"{kind}_power_w"].fillna(0.0).to_numpy(dtype=float)
                axes.barh(at, value, 0.7, left=left, color=COMPONENT_COLOURS[kind], zorder=2)
                left += value
            idle = part["idle_power_w"].to_numpy(dtype=float)
            axes.vlines(idle, at - 0.42, at + 0.42, colors=INK, linewidths=1.6, zorder=3)
            for limit in shown:
                axes.axvline(limit.power_w, color=QUIET, linestyle=(0, (4, 2)), linewidth=1)
            axes.set_xlabel("Mean power (W)")
        _row_names(panels, order)
        handles: list[Any] = [
            Patch(color=COMPONENT_COLOURS[kind], label=COMPONENT_NAMES[kind]) for kind in kinds
        ]
        if known["idle_power_w"].notna().any():
            handles.append(Line2D([], [], color=INK, linewidth=1.6, label="idle, all components"))
        handles += [
            Line2D([], [], color=QUIET, linestyle=(0, (4, 2)), linewidth=1, label=limit.text)
            for limit in shown
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        laid_out(figure)
    return figure


def energy(table: pd.DataFrame) -> Figure:
    """Energy for 1,000 samples, gross and net of idle, with 95 % intervals.

    Args:
        table: As :func:`joulelab.analysis.summary.summary` gives it, of one study.

    Raises:
        NothingToDraw: No energy is known.
    """
    known = _known(table, "gross_j_per_sample", "no run's energy was measured or estimated")
    order = _order(known, "gross_j_per_sample")
    phases = _phases(known)
    net = bool(known["net_j_per_sample"].notna().any())
    columns = ["gross_j_per_sample", *(["net_j_per_sample"] if net else [])]
    values = PER * known[columns]
    low, high = float(values.min().min()), float(values.max().max())
    logarithmic = low > 0 and high / low > 10
    with drawing():
        figure, panels = _panels(phases, len(order))
        for axes, phase in zip(panels, phases, strict=True):
            part = known[known["phase"] == phase]
            for column, shift in zip(columns, (-0.14, 0.14) if net else (0.0,), strict=True):
                at = [order[name] + shift for name in part["name"]]
                face = PHASE_COLOURS[phase] if column.startswith("gross") else "white"
                axes.plot(
                    PER * part[column].to_numpy(dtype=float),
                    at,
                    MARKERS[phase],
                    color=PHASE_COLOURS[phase],
                    markerfacecolor=face,
                    markersize=5,
                    zorder=4,
                )
                _bars(axes, at, part, column, colour=PHASE_COLOURS[phase])
            axes.set_xlabel(f"Energy for {PER:,} samples (J)")
            if logarithmic:
                axes.set_xscale("log")
                plain_numbers(axes.xaxis, low, high)
                axes.set_xlim(left=_floor(PER * known[[f"{name}_low" for name in columns]], low))
            elif low >= 0:
                axes.set_xlim(left=0)
        _row_names(panels, order)
        handles = [_dot(QUIET, QUIET, "gross")]
        handles += [_dot(QUIET, "white", "net of idle")] if net else []
        handles.append(Line2D([], [], color=QUIET, linewidth=1, label="95 % interval"))
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        laid_out(figure)
    return figure


def macs_per_parameter(table: pd.DataFrame) -> Figure:
    """Energy for 1,000 samples against MACs per parameter (Fig. 6 of the paper).

    Net of idle where that is known and positive for every point, otherwise gross.

    Args:
        table: As :func:`joulelab.analysis.summary.summary` gives it, of one study.

    Raises:
        NothingToDraw: Fewer than two models have both.
    """
    known = _known(
        table[table["macs_per_parameter"].notna()],
        "gross_j_per_sample",
        "no model has both its MACs per parameter and its energy",
    )
    if known["model"].nunique() < 2:
        raise NothingToDraw("it takes two models to compare")
    lowest = known["net_j_per_sample"].min(skipna=False)
    column, word = (
        ("net_j_per_sample", "Energy net of idle")
        if lowest > 0
        else ("gross_j_per_sample", "Gross energy")
    )
    phases = _phases(known)
    with drawing():
        figure = Figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
        panels = figure.subplots(1, len(phases), sharex=True, squeeze=False)[0]
        for axes, phase in zip(panels, phases, strict=True):
            part = known[known["phase"] == phase]
            x = part["macs_per_parameter"].to_numpy(dtype=float)
            y = PER * part[column].to_numpy(dtype=float)
            axes.set_xscale("log")
            axes.set_yscale("log")
            plain_numbers(axes.xaxis, x.min(), x.max())
            plain_numbers(axes.yaxis, y.min(), y.max())
            colour = PHASE_COLOURS[phase]
            axes.plot(x, y, MARKERS[phase], color=colour, markersize=4.5, zorder=3)
            low, high = (PER * part[f"{column}{end}"] for end in ("_low", "_high"))
            floor = _floor(low.to_frame(), float(y.min()))
            axes.vlines(x, low.clip(lower=floor), high, colors=colour, linewidths=1, zorder=2)
            axes.margins(0.16, 0.12)
            if (low < floor).any():
                axes.set_ylim(bottom=floor)
            axes.set_title(PHASE_NAMES[phase])
            axes.set_xlabel("MACs per parameter")
            axes.set_ylabel(f"{word} for {PER:,} samples (J)")
        laid_out(figure)
        for axes, phase in zip(panels, phases, strict=True):
            part = known[known["phase"] == phase]
            label_points(
                axes,
                part["macs_per_parameter"].to_numpy(dtype=float),
                PER * part[column].to_numpy(dtype=float),
                part["name"].tolist(),
            )
    return figure


def _known(table: pd.DataFrame, column: str, reason: str) -> pd.DataFrame:
    known = table[table[column].notna()]
    if known.empty:
        raise NothingToDraw(reason)
    return known.assign(name=names(known))


def _order(known: pd.DataFrame, column: str) -> dict[str, int]:
    """Row of each name: the smallest in the first phase on top."""
    first = known[known["phase"] == _phases(known)[0]]
    ordered = first.sort_values(column, kind="stable")["name"]
    everyone = dict.fromkeys([*ordered, *known["name"]])
    return {name: row for row, name in enumerate(everyone)}


def _phases(known: pd.DataFrame) -> list[str]:
    present = set(known["phase"])
    return [phase for phase in PHASE_NAMES if phase in present]


def _rows_figure(rows: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, max(1.7, 0.95 + 0.24 * rows)), layout="constrained")
    return figure, figure.subplots()


def _panels(phases: Sequence[str], rows: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH_IN, max(1.9, 1.15 + 0.25 * rows)), layout="constrained")
    panels = figure.subplots(1, len(phases), sharex=True, sharey=True, squeeze=False)[0]
    for axes, phase in zip(panels, phases, strict=True):
        axes.set_title(PHASE_NAMES[phase])
    return figure, list(panels)


def _row_names(panels: Sequence[Axes], order: Mapping[str, int]) -> None:
    panels[0].set_yticks(list(order.values()), list(order))
    for axes in panels:
        plain_rows(axes, len(order))


def _bars(
    axes: Axes, at: Sequence[float], part: pd.DataFrame, column: str, colour: str = INK
) -> None:
    low, high = (PER * part[f"{column}{end}"].to_numpy(dtype=float) for end in ("_low", "_high"))
    axes.hlines(at, low, high, colors=colour, linewidths=1, zorder=3)


def _floor(lows: pd.DataFrame, least: float) -> float:
    """Where a logarithmic axis begins: below all intervals, or a third of the least value.

    An interval that reaches zero or far below its value runs off the axis.
    """
    lowest = float(lows.min().min())
    return max(0.9 * lowest, least / 3) if lowest > 0 else least / 3


def _dot(edge: str, face: str, label: str) -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker="o", color=edge, markerfacecolor=face, label=label
    )


def _phase_legend(figure: Figure, phases: Sequence[str]) -> None:
    handles: list[Any] = [
        Patch(color=PHASE_COLOURS[phase], label=PHASE_NAMES[phase]) for phase in phases
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1, label="95 % interval"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
