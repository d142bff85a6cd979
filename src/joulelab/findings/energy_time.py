"""Is energy linear in time? A line through one point a model, and what it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm  # type: ignore[import-untyped]
from numpy.typing import NDArray

from joulelab.findings.data import Group
from joulelab.findings.findings import Finding
from joulelab.findings.frames import INT, PLACE, REAL, TEXT, frame, records
from joulelab.findings.terms import ENERGIES, NAMES, PHASES
from joulelab.findings.words import number, probability, sentence, with_interval

Array = NDArray[np.float64]

LEAST = 4
"""With fewer models a line leaves too little to tell how sure it is."""

ALPHA = 0.05
"""What p is held against."""

TIME_POINTS: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "model": TEXT,
    "duration_s_per_sample": REAL,
    "energy_j_per_sample": REAL,
    "fitted_j_per_sample": REAL,
    "residual_j_per_sample": REAL,
}
"""Columns of :func:`time_points`. ``quantity`` is ``net`` or ``gross``."""

TIME_FITS: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "quantity": TEXT,
    "slope_w": REAL,
    "slope_low_w": REAL,
    "slope_high_w": REAL,
    "intercept_j": REAL,
    "intercept_low_j": REAL,
    "intercept_high_j": REAL,
    "r_squared": REAL,
    "curvature_p": REAL,
    "typical_error_pct": REAL,
    "n": INT,
}
"""Columns of :func:`time_fits`. ``typical_error_pct`` is the median of residuals over energies."""


def time_fits(groups: Sequence[Group]) -> pd.DataFrame:
    """Least squares of energy per sample on time per sample, one point a model.

    Intervals are from covariances that hold where models scatter unequally about the line (HC3;
    MacKinnon and White 1985), with Student's t. ``curvature_p`` is of the square of time, added
    to the line.

    Args:
        groups: Models measured alike.

    Returns:
        Columns as :data:`TIME_FITS`; no row with fewer than :data:`LEAST` models.
    """
    return frame([_fit(points) for points in _points(groups)], TIME_FITS)


def time_points(groups: Sequence[Group]) -> pd.DataFrame:
    """The points of these fits, with what the line says and leaves.

    Returns:
        Columns as :data:`TIME_POINTS`; a row a model, phase and quantity that has a fit.
    """
    rows: list[dict[str, Any]] = []
    for points in _points(groups):
        line = sm.OLS(points["energy_j_per_sample"], _design(points)).fit()
        rows += records(
            points.assign(fitted_j_per_sample=line.fittedvalues, residual_j_per_sample=line.resid)
        )
    return frame(rows, TIME_POINTS)


def _points(groups: Sequence[Group]) -> list[pd.DataFrame]:
    """Time and energy of each model, a table a group, phase and quantity that can have a line."""
    found = []
    for group in groups:
        for phase in PHASES:
            models = group.phase(phase)
            for quantity, column in ENERGIES.items():
                points = pd.DataFrame(
                    {
                        "study": group.study,
                        "machine": group.machine,
                        "setting": group.setting,
                        "phase": phase,
                        "quantity": quantity,
                        "model": models["model"],
                        "duration_s_per_sample": models["duration_s_per_sample"],
                        "energy_j_per_sample": models[column],
                    }
                )
                points = points[points["energy_j_per_sample"].notna()]
                points = points[points["duration_s_per_sample"].notna()]
                if len(points) >= LEAST and points["duration_s_per_sample"].nunique() > 1:
                    found.append(points.reset_index(drop=True))
    return found


def _design(points: pd.DataFrame, power: int = 1) -> Array:
    """1, t, t² ... up to that power."""
    time_s = points["duration_s_per_sample"].to_numpy(dtype=float)
    return np.stack([time_s**order for order in range(power + 1)], axis=1)


def _fit(points: pd.DataFrame) -> dict[str, Any]:
    energy_j = points["energy_j_per_sample"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        line = sm.OLS(energy_j, _design(points)).fit(cov_type="HC3", use_t=True)
        (intercept, slope), ends = line.params, line.conf_int()
        errors = np.abs(line.resid / energy_j)
    return {name: points[name].iloc[0] for name in (*PLACE, "phase", "quantity")} | {
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
    """Of no bend; not known with fewer points than a bend leaves two of."""
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
    """Linearity in words. Ids: ``linear.<phase>.<net|gross>``.

    Args:
        fits: See :func:`time_fits`.
        points: See :func:`time_points`.
    """
    keys = [*PLACE, "phase", "quantity"]
    by_fit = dict(iter(points.groupby(keys, sort=False)))
    return [_finding(row, by_fit[tuple(row[key] for key in keys)]) for row in records(fits)]


def _finding(row: dict[str, Any], points: pd.DataFrame) -> Finding:
    energy, phase = NAMES[row["quantity"]], PHASES[row["phase"]]
    errors = (points["residual_j_per_sample"] / points["energy_j_per_sample"]).abs()
    most = float(errors.max())
    worst = points["model"][errors == most].iloc[0] if most < math.inf else ""
    slope = with_interval(row["slope_w"], row["slope_low_w"], row["slope_high_w"], "W")
    texts = [
        _bend(row, energy),
        f"the {energy} of a sample rises by {slope} with its time",
        _start(row),
        f"the line is off by {number(row['typical_error_pct'])} % for the median model"
        + (f", by {number(100 * most)} % for {worst}" if worst else ""),
    ]
    if not math.isnan(row["r_squared"]):
        texts.append(
            f"R² is {number(row['r_squared'], 2)}: the share of the spread over models that the "
            "line takes up, which the slowest models dominate; it does not say that models of "
            "equal time need equal energy"
        )
    return Finding(
        id=f"linear.{row['phase']}.{row['quantity']}",
        question=f"Is {energy} linear in time over models in {phase}?",
        statement=" ".join(sentence(text) for text in texts),
        estimate=row["slope_w"],
        low=row["slope_low_w"],
        high=row["slope_high_w"],
        n=row["n"],
        unit="W",
        study=row["study"],
        setting=row["setting"],
        figure="energy-time",
    )


def _start(row: dict[str, Any]) -> str:
    low, high = 1e3 * row["intercept_low_j"], 1e3 * row["intercept_high_j"]
    text = f"the line begins at {with_interval(1e3 * row['intercept_j'], low, high, 'mJ')}"
    if math.isnan(low):
        return text
    return f"{text}, which {'includes' if low <= 0 <= high else 'excludes'} 0"


def _bend(row: dict[str, Any], energy: str) -> str:
    p, over = row["curvature_p"], f"over {row['n']} models"
    if math.isnan(p):
        return f"{over} it cannot be told whether {energy} bends over time: more are needed"
    if p < ALPHA:
        return f"{over} {energy} is not linear in time: a bend is shown ({probability(p)})"
    return f"{over} {energy} is not shown to depart from a line in time ({probability(p)})"
