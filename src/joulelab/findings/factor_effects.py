"""Effects of factors, their interactions, and each setting compared with the first one.

Cells are compared within blocks and all else equal: a level with the plan's first level, in pairs
of cells that differ in nothing else. Energies and time are compared as ratios, accuracies as
differences.

Everything that is tested of one study and machine is one family, corrected by Holm's procedure: in
at most 5 % of studies without any effect is one significant. A question (the effect of a factor on
a quantity in a phase, an interaction, the settings of a model) has the same weight however many
levels it compares. An interval is at the level at which the procedure tests it, so that it agrees
with the test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from joulelab.arrays import Floats, Indices
from joulelab.findings.cell_means import ACCURACY, CELL, CellMeans
from joulelab.findings.schema import ENERGIES, INTERVAL, KEY, QUANTITIES, frame, records
from joulelab.findings.summary import varying
from joulelab.runs import FACTORS
from joulelab.runs.study_runs import Study
from joulelab.stats.blocked_means import UNKNOWN_MEAN, as_row, mean_contrast
from joulelab.stats.difference import Difference, holm, holm_confidence
from joulelab.uncertain import ratio_interval

POINT_DECIMALS = 6
"""Accuracies that differ by less than this many decimals of a point are equal but for rounding."""
COLUMNS: Mapping[str, str] = {**QUANTITIES, ACCURACY: "accuracy_pct"}
"""What factors may change, and the columns of the measurements."""

LEAST_SCATTER = 1e-9
"""Relative standard error below which differences are those of rounding."""

_TEST = (*INTERVAL, "p", "shown", "n")

FACTOR_EFFECTS = (
    "study", "machine", "unit", "phase", "quantity", "factor", "level", "reference",
    "other", "other_level", "other_reference", "at", "at_reference", *_TEST,
)  # fmt: skip
"""Columns of :func:`factor_effects`. The effect of a factor's ``level`` against the ``reference``,
the first level of the plan: a ratio of energy or time per unit, or a difference of ``accuracy`` in
percentage points, the (geometric) mean over ``n`` combinations of model and other factors. Rows
with an ``other`` factor, which may be ``model``, are interactions: the effect ``at`` its
``other_level`` over (or minus) that ``at_reference``, its ``other_reference``. ``p`` is corrected
for all that is tested with it, and ``shown`` states whether the interval excludes no effect; it is
empty without repeats."""

SETTING_EFFECTS = (
    *KEY, "model", "phase", "quantity", "first_setting", "value", "value_low", "value_high", *_TEST,
    "less_accurate", "best",
)  # fmt: skip
"""Columns of :func:`setting_effects`. The ``value`` of a model at a setting, of ``n`` repeats, and
its ratio to (for accuracy, its difference from) that at the first setting of the plan, where
``first_setting`` is true. ``less_accurate``: the setting is, or one of its levels is by its effect,
significantly less accurate than the first. ``best`` marks the least energy of all others, unless a
mean below it cannot be compared, because it is not above 0 in every repeat."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The cells of one phase, and the code of each one's level by axis; -1 for none.

    Axes are the factors that vary and, last, the model. A code is the position of a level in the
    order of the plan.
    """

    phase: str
    rows: list[dict[str, Any]]
    codes: Indices

    def index(self, sizes: Sequence[int], axes: Sequence[int]) -> Indices:
        """Return the cell of each level of these axes and each combination of the others, or -1."""
        _, others = np.unique(
            np.insert(np.delete(self.codes, axes, axis=1), 0, 0, axis=1),
            axis=0,
            return_inverse=True,
        )
        others = others.ravel()
        found = np.full((*(sizes[axis] for axis in axes), int(others.max()) + 1), -1)
        known = np.flatnonzero((self.codes[:, axes] >= 0).all(axis=1))
        found[(*self.codes[known][:, axes].T, others[known])] = known
        return found


@dataclass(slots=True)
class _Tested:
    """A row of a table, its effect, and its weight among all that is tested together."""

    row: dict[str, Any]
    found: Difference
    weight: float

    def at(self, confidence: float, p: float) -> dict[str, Any]:
        """Return the row with its interval at this confidence."""
        half = self.found.half_width(confidence) if self.found.is_tested else math.nan
        value, none = self.found.value, 0.0
        low, high = value - half, value + half
        if self.row["quantity"] == ACCURACY:
            low, high = max(low, -100.0), min(high, 100.0)
            value, low, high = (round(one, POINT_DECIMALS) + 0.0 for one in (value, low, high))
        else:
            value, none = math.exp(value), 1.0
            low, high = ratio_interval(value, half)
        shown = None if math.isnan(half) else not low <= none <= high
        return self.row | {"estimate": value, "low": low, "high": high, "p": p, "shown": shown}


def factor_and_setting_effects(
    studies: Sequence[Study], measured: pd.DataFrame, means: CellMeans
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the levels of each factor that varies, and each setting with the first one.

    Returns:
        Tables with the columns :data:`FACTOR_EFFECTS` and :data:`SETTING_EFFECTS`.
    """
    plans = {study.label: study.plan for study in studies}
    effects: list[dict[str, Any]] = []
    settings: list[dict[str, Any]] = []
    for _, part in measured.groupby(["study", "identity", "sources"], dropna=False, sort=False):
        factors = varying(part)
        if not factors:
            continue
        axes = [*factors, "model"]
        levels = [_levels(part, axis, plans.get(part["study"].iloc[0], {})) for axis in axes]
        named = {name: part[name].iloc[0] for name in ("study", "machine", "unit")}
        cells = [
            _cells(str(phase), of_phase, axes, levels)
            for phase, of_phase in part.groupby("phase", sort=False)
        ]
        of_factors: list[_Tested] = []
        of_settings: list[_Tested] = []
        for each, quantity in product(cells, COLUMNS):
            rows = _rows_of(each, means, quantity)
            of_factors += _effects(each, axes, levels, quantity, rows)
            of_settings += _settings(each, quantity, rows)
        corrected = _corrected([*of_factors, *of_settings])
        effects += [named | row for row in corrected[: len(of_factors)]]
        settings += _with_best(corrected[len(of_factors) :], corrected[: len(of_factors)])
    return frame(effects, FACTOR_EFFECTS), frame(settings, SETTING_EFFECTS)


def _levels(part: pd.DataFrame, axis: str, plan: Mapping[str, Any]) -> list[Any]:
    """Return the measured levels, in the plan's order; those that it does not name are last."""
    planned = plan.get("models", []) if axis == "model" else plan.get("factors", {}).get(axis, [])
    measured = part[axis].dropna().unique().tolist()
    rest = [level for level in measured if level not in planned]
    return [level for level in planned if level in measured] + (
        rest if axis == "model" else sorted(rest)
    )


def _cells(
    phase: str, part: pd.DataFrame, axes: Sequence[str], levels: Sequence[list[Any]]
) -> _Cells:
    codes = [
        part[axis].map({level: code for code, level in enumerate(known)}).fillna(-1)
        for axis, known in zip(axes, levels, strict=True)
    ]
    return _Cells(phase, records(part), np.stack(codes, axis=1).astype(np.intp))


def _rows_of(cells: _Cells, means: CellMeans, quantity: str) -> Floats:
    known = means[quantity]
    keys = [tuple(row[name] for name in CELL) for row in cells.rows]
    return np.array([as_row(known.get(key, UNKNOWN_MEAN)) for key in keys])


def _effects(
    cells: _Cells, axes: Sequence[str], levels: Sequence[list[Any]], quantity: str, means: Floats
) -> Iterator[_Tested]:
    """Yield the effect of each level of each factor, and each interaction of two axes."""
    factors = [(axis,) for axis in range(len(axes) - 1)]
    sizes = [len(known) for known in levels]
    natural = float if quantity == ACCURACY else math.exp
    for question in (*factors, *combinations(range(len(axes)), 2)):
        index = cells.index(sizes, question)
        found = []
        for codes in product(*(range(1, sizes[axis]) for axis in question)):
            corners = product(*((code, 0) for code in codes))
            columns = np.stack([index[corner] for corner in corners], axis=1)
            rows = _complete(columns, means)
            if not len(rows):
                continue
            row = {"phase": cells.phase, "quantity": quantity, "n": len(rows)}
            for axis, code, prefix in zip(question, codes, ("", "other_"), strict=False):
                row |= {
                    "other" if prefix else "factor": axes[axis],
                    f"{prefix}level": _text(levels[axis][code]),
                    f"{prefix}reference": _text(levels[axis][0]),
                }
            if len(question) > 1:
                both, other, level, neither = rows[:, :, 0].mean(axis=0).tolist()
                row |= {"at": natural(both - level), "at_reference": natural(other - neither)}
            found.append((row, _contrast(rows)))
        yield from (_Tested(row, contrast, 1 / len(found)) for row, contrast in found)


def _text(level: Any) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def _complete(index: Indices, means: Floats) -> Floats:
    """Return the means of those combinations of cells that have them all."""
    rows = means[index[(index >= 0).all(axis=1)]]
    return rows[np.isfinite(rows[:, :, 0]).all(axis=1)]


def _contrast(rows: Floats) -> Difference:
    """Return the mean difference, or difference of differences, over combinations of cells."""
    found = mean_contrast(rows, (1, -1) if rows.shape[1] == 2 else (1, -1, -1, 1))
    return replace(found, scatter=max(found.scatter, LEAST_SCATTER)) if found.is_tested else found


def _settings(cells: _Cells, quantity: str, means: Floats) -> Iterator[_Tested]:
    """Yield each model's settings, in the order of the plan, compared with the first one."""
    by_model: dict[str, list[int]] = {}
    for at in np.lexsort(cells.codes.T[::-1]).tolist():
        by_model.setdefault(cells.rows[at]["model"], []).append(at)
    column = COLUMNS[quantity]
    for settings in by_model.values():
        known = [at for at in settings if not math.isnan(cells.rows[at][column])]
        for at in known:
            row = cells.rows[at]
            rows = _complete(np.array([[at, settings[0]]]), means)
            found = Difference(0.0 if at == settings[0] else math.nan, math.nan, math.nan)
            if len(rows) and at != settings[0]:
                found = _contrast(rows)
            values = {
                "quantity": quantity,
                "first_setting": at == settings[0],
                "value": row[column],
                "value_low": row[f"{column}_low"],
                "value_high": row[f"{column}_high"],
                "n": row[f"{column}_n"],
            }
            named = {name: row[name] for name in (*KEY, *FACTORS, "model", "phase")}
            yield _Tested(named | values, found, 1 / max(len(known) - 1, 1))


def _corrected(tested: Sequence[_Tested]) -> list[dict[str, Any]]:
    """Return the rows with intervals that agree with Holm's procedure."""
    p, weights = [one.found.p for one in tested], [one.weight for one in tested]
    confidences = holm_confidence(p, weights)
    return [
        one.at(confidence, corrected)
        for one, confidence, corrected in zip(tested, confidences, holm(p, weights), strict=True)
    ]


def _with_best(
    rows: Sequence[dict[str, Any]], effects: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Mark the setting of least energy of each model and phase, at equal accuracy."""
    worse_levels = {
        (row["phase"], row["factor"], row["level"])
        for row in effects
        if _is_worse(row) and "other" not in row
    }
    worse_cells = {
        (row["group"], row["model"], row["phase"])
        for row in rows
        if _is_worse(row)
        or any((row["phase"], name, _text(row[name])) in worse_levels for name in FACTORS)
    }
    least: dict[tuple[Any, ...], tuple[float, int]] = {}
    incomparable: dict[tuple[Any, ...], float] = {}
    for at, row in enumerate(rows):
        row["less_accurate"] = (row["group"], row["model"], row["phase"]) in worse_cells
        if row["quantity"] not in ENERGIES or row["less_accurate"]:
            continue
        key = row["model"], row["phase"], row["quantity"]
        if row["estimate"] > 0:
            least[key] = min((row["estimate"], at), least.get(key, (math.inf, at)))
        else:
            incomparable[key] = min(row["value"], incomparable.get(key, math.inf))
    best = {
        at for key, (_, at) in least.items() if rows[at]["value"] <= incomparable.get(key, math.inf)
    }
    return [row | {"best": at in best} for at, row in enumerate(rows)]


def _is_worse(row: Mapping[str, Any]) -> bool:
    return row["quantity"] == ACCURACY and row["shown"] is True and row["estimate"] < 0
