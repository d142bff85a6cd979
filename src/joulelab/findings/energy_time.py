"""Linearity of energy in time: a line through one point per model, and its residuals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from joulelab.arrays import Floats
from joulelab.findings.schema import ALPHA, ENERGIES, KEY, NAMES, PHASES, Finding, frame, records
from joulelab.format import number, p_value, percent, with_interval
from joulelab.stats.least_squares import fit_least_squares

LEAST = 4
"""With fewer models too little remains to estimate the uncertainty of a line."""

TIME_POINTS = (
    *KEY, "phase", "quantity", "model", "duration_s_per_unit", "energy_j_per_unit",
    "fitted_j_per_unit", "residual_j_per_unit",
)  # fmt: skip
"""Columns of :func:`time_points`. ``quantity`` is ``net`` or ``gross``."""

TIME_FITS = (
    *KEY, "phase", "quantity", "slope_w", "slope_low_w", "slope_high_w", "intercept_j",
    "intercept_low_j", "intercept_high_j", "r_squared", "curvature_p", "typical_error_pct", "n",
)  # fmt: skip
"""Columns of :func:`time_fits`. ``typical_error_pct`` is the median ratio of residual to energy."""


def time_fits(measured: pd.DataFrame) -> pd.DataFrame:
    """Fit energy over time, both per unit, by least squares, one point per model.

    Intervals are valid where models scatter unequally about the line, see
    :func:`joulelab.stats.least_squares.fit_least_squares`, and contain what the energies share: the
    scale of the sensors and the idle power. ``curvature_p`` tests the square of time, added to the
    line.

    Returns:
        Columns :data:`TIME_FITS`; no row for fewer than :data:`LEAST` models.
    """
    return frame([_fit(points) for points in _points(measured)], TIME_FITS)


def time_points(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the points of these fits, with the values of the line and the residuals.

    Returns:
        Columns :data:`TIME_POINTS`; a row per model, phase and quantity that has a fit.
    """
    rows: list[dict[str, Any]] = []
    for points in _points(measured):
        energy_j = points["energy_j_per_unit"].to_numpy(dtype=float)
        residual_j = fit_least_squares(_design(points), energy_j).residuals
        rows += records(
            points.assign(fitted_j_per_unit=energy_j - residual_j, residual_j_per_unit=residual_j)
        )
    return frame(rows, TIME_POINTS)


def _points(measured: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield time and energy of each model, a table per group, phase and quantity with a line."""
    named = measured[[*KEY, "phase", "model", "duration_s_per_unit"]]
    for _, group in measured.groupby("group", sort=False):
        for phase, (quantity, column) in product(PHASES, ENERGIES.items()):
            models = group[group["phase"] == phase]
            points = named.loc[models.index].assign(
                quantity=quantity,
                energy_j_per_unit=models[column],
                shared=_shared(models, column),
            )
            points = points.dropna(subset=["energy_j_per_unit", "duration_s_per_unit"])
            if len(points) >= LEAST and points["duration_s_per_unit"].nunique() > 1:
                yield points.reset_index(drop=True)


def _shared(models: pd.DataFrame, column: str) -> Floats:
    """Return the half-width of what all energies share, relative to each energy."""
    names = [column, f"{column}_low", f"{column}_high", f"{column}_random"]
    value, low, high, random = models[names].to_numpy(dtype=float).T
    half = np.fmax(high - value, value - low)
    shared = np.sqrt(np.maximum(half**2 - np.nan_to_num(random) ** 2, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shared / np.abs(value))


def _design(points: pd.DataFrame, power: int = 1) -> Floats:
    """Return the columns 1, t, t² and so on up to a power."""
    time_s = points["duration_s_per_unit"].to_numpy(dtype=float)
    return np.stack([time_s**order for order in range(power + 1)], axis=1)


def _fit(points: pd.DataFrame) -> dict[str, Any]:
    energy_j = points["energy_j_per_unit"].to_numpy(dtype=float)
    line = fit_least_squares(_design(points), energy_j)
    (intercept, slope) = line.values
    shared = points["shared"].median()
    from_start, from_slope = np.hypot(line.half_widths, shared * np.abs(line.values))
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.abs(line.residuals / energy_j)
    varied = float(((energy_j - energy_j.mean()) ** 2).sum())
    return {name: points[name].iloc[0] for name in (*KEY, "phase", "quantity")} | {
        "slope_w": slope,
        "slope_low_w": slope - from_slope,
        "slope_high_w": slope + from_slope,
        "intercept_j": intercept,
        "intercept_low_j": intercept - from_start,
        "intercept_high_j": intercept + from_start,
        "r_squared": 1 - float((line.residuals**2).sum()) / varied if varied > 0 else math.nan,
        "curvature_p": _curvature_p(points, energy_j),
        "typical_error_pct": 100 * float(np.median(errors)),
        "n": len(points),
    }


def _curvature_p(points: pd.DataFrame, energy_j: Floats) -> float:
    """Return p of no curvature; NaN with fewer points than a curve leaves two of."""
    time_s = points["duration_s_per_unit"]
    if len(points) <= LEAST or time_s.nunique() < LEAST:
        return math.nan
    scaled = points.assign(duration_s_per_unit=time_s / time_s.max())
    return float(fit_least_squares(_design(scaled, 2), energy_j).p[2])


def time_findings(fits: pd.DataFrame, points: pd.DataFrame) -> list[Finding]:
    """State whether energy is linear in time. Ids: ``linear.<phase>.<net|gross>``."""
    keys = ["group", "phase", "quantity"]
    by_fit = dict(iter(points.groupby(keys, sort=False)))
    return [_finding(row, by_fit[tuple(row[key] for key in keys)]) for row in records(fits)]


def _finding(row: dict[str, Any], points: pd.DataFrame) -> Finding:
    energy, phase = NAMES[row["quantity"]], PHASES[row["phase"]]
    slope = with_interval(row["slope_w"], row["slope_low_w"], row["slope_high_w"], "W")
    start = with_interval(row["intercept_j"], row["intercept_low_j"], row["intercept_high_j"], "J")
    if not math.isnan(row["intercept_low_j"]):
        includes = row["intercept_low_j"] <= 0 <= row["intercept_high_j"]
        start += f", which {'includes' if includes else 'excludes'} 0"
    errors = (points["residual_j_per_unit"] / points["energy_j_per_unit"]).abs()
    most = float(errors.max())
    fit = f"the line is off by {percent(row['typical_error_pct'] / 100)} for the median model"
    if most < math.inf:
        worst = points["model"][errors == most].iloc[0]
        fit += f" and by {percent(most)} for {worst}"
    texts = [
        _linearity(row, energy),
        f"a line of {energy} over time, both per {row['unit']}, has a slope of {slope} and starts "
        f"at {start}",
        fit,
    ]
    if not math.isnan(row["r_squared"]):
        texts.append(
            f"R² is {number(row['r_squared'], 2)}: the share of the variation that the line "
            "explains, which depends most on the slowest models; models of equal time need not "
            "use equal energy"
        )
    return Finding.about(
        row,
        f"linear.{row['phase']}.{row['quantity']}",
        f"Is {energy} linear in time over models in {phase}?",
        texts,
        estimate=row["slope_w"],
        low=row["slope_low_w"],
        high=row["slope_high_w"],
        unit="W",
        figure="energy-time",
        significant=None if math.isnan(row["curvature_p"]) else row["curvature_p"] < ALPHA,
    )


def _linearity(row: dict[str, Any], energy: str) -> str:
    p, n = row["curvature_p"], row["n"]
    if math.isnan(p):
        return f"{n} models are too few to test whether {energy} is linear in time"
    verdict = "is not linear in time" if p < ALPHA else "shows no significant curve over time"
    return f"over {n} models, {energy} {verdict} ({p_value(p)})"
