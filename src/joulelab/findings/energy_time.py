"""Linearity of energy in time: a line through one point per model, and its residuals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm  # type: ignore[import-untyped]
from numpy.typing import NDArray

from joulelab.findings.schema import ALPHA, ENERGIES, KEY, NAMES, PHASES, Finding, frame, records
from joulelab.format import number, p_value, percent, with_interval

Array = NDArray[np.float64]

LEAST = 4
"""With fewer models too little remains to estimate the uncertainty of a line."""

TIME_POINTS = (
    *KEY, "phase", "quantity", "model", "duration_s_per_sample", "energy_j_per_sample",
    "fitted_j_per_sample", "residual_j_per_sample",
)  # fmt: skip
"""Columns of :func:`time_points`. ``quantity`` is ``net`` or ``gross``."""

TIME_FITS = (
    *KEY, "phase", "quantity", "slope_w", "slope_low_w", "slope_high_w", "intercept_j",
    "intercept_low_j", "intercept_high_j", "r_squared", "curvature_p", "typical_error_pct", "n",
)  # fmt: skip
"""Columns of :func:`time_fits`. ``typical_error_pct`` is the median ratio of residual to energy."""


def time_fits(measured: pd.DataFrame) -> pd.DataFrame:
    """Fit energy per sample over time per sample by least squares, one point per model.

    Intervals use covariances that are valid where models scatter unequally about the line (HC3;
    MacKinnon and White 1985), with Student's t. ``curvature_p`` tests the square of time, added to
    the line.

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
        line = sm.OLS(points["energy_j_per_sample"], _design(points)).fit()
        rows += records(
            points.assign(fitted_j_per_sample=line.fittedvalues, residual_j_per_sample=line.resid)
        )
    return frame(rows, TIME_POINTS)


def _points(measured: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield time and energy of each model, a table per group, phase and quantity with a line."""
    named = measured[[*KEY, "phase", "model", "duration_s_per_sample"]]
    for _, group in measured.groupby("group", sort=False):
        for phase, (quantity, column) in product(PHASES, ENERGIES.items()):
            models = group[group["phase"] == phase]
            points = named.loc[models.index].assign(
                quantity=quantity, energy_j_per_sample=models[column]
            )
            points = points.dropna(subset=["energy_j_per_sample", "duration_s_per_sample"])
            if len(points) >= LEAST and points["duration_s_per_sample"].nunique() > 1:
                yield points.reset_index(drop=True)


def _design(points: pd.DataFrame, power: int = 1) -> Array:
    """Return the columns 1, t, t² and so on up to a power."""
    time_s = points["duration_s_per_sample"].to_numpy(dtype=float)
    return np.stack([time_s**order for order in range(power + 1)], axis=1)


def _fit(points: pd.DataFrame) -> dict[str, Any]:
    energy_j = points["energy_j_per_sample"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        line = sm.OLS(energy_j, _design(points)).fit(cov_type="HC3", use_t=True)
        (intercept, slope), ends = line.params, line.conf_int()
        errors = np.abs(line.resid / energy_j)
    return {name: points[name].iloc[0] for name in (*KEY, "phase", "quantity")} | {
        "slope_w": slope,
        "slope_low_w": ends[1][0],
        "slope_high_w": ends[1][1],
        "intercept_j": intercept,
        "intercept_low_j": ends[0][0],
        "intercept_high_j": ends[0][1],
        "r_squared": line.rsquared if np.ptp(energy_j) > 0 else math.nan,
        "curvature_p": _curvature_p(points, energy_j),
        "typical_error_pct": 100 * float(np.median(errors)),
        "n": len(points),
    }


def _curvature_p(points: pd.DataFrame, energy_j: Array) -> float:
    """Return p of no curvature; NaN with fewer points than a curve leaves two of."""
    scaled = points.assign(
        duration_s_per_sample=points["duration_s_per_sample"]
        / points["duration_s_per_sample"].max()
    )
    if len(points) <= LEAST or scaled["duration_s_per_sample"].nunique() < LEAST:
        return math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        bent = sm.OLS(energy_j, _design(scaled, 2)).fit(cov_type="HC3", use_t=True)
        return float(bent.pvalues[2])


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
    errors = (points["residual_j_per_sample"] / points["energy_j_per_sample"]).abs()
    most = float(errors.max())
    fit = f"the line is off by {percent(row['typical_error_pct'] / 100)} for the median model"
    if most < math.inf:
        worst = points["model"][errors == most].iloc[0]
        fit += f" and by {percent(most)} for {worst}"
    texts = [
        _linearity(row, energy),
        f"a line of {energy} over time, both per sample, has a slope of {slope} and starts at "
        f"{start}",
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
    )


def _linearity(row: dict[str, Any], energy: str) -> str:
    p, n = row["curvature_p"], row["n"]
    if math.isnan(p):
        return f"{n} models are too few to test whether {energy} is linear in time"
    verdict = "is not linear in time" if p < ALPHA else "shows no significant curve over time"
    return f"over {n} models, {energy} {verdict} ({p_value(p)})"
