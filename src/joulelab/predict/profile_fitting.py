"""Fit a hardware profile to measured steps.

The fit minimises the squared residuals of the logarithms of time and energy, and of each
coefficient from its prior, with less weight on large residuals (pseudo-Huber). The result is the
most probable set of coefficients; its covariance is that of the quadratic approximation around it
(Laplace's approximation: Gelman et al., Bayesian Data Analysis, 3rd ed., section 4.1). The error
of the model itself is estimated by leaving architectures out of the fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import least_squares

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.predict.coefficients import (
    COEFFICIENT_NAMES,
    Datasheet,
    expect_coefficients,
    find_datasheet,
    generic_datasheet,
    known_datasheets,
)
from joulelab.predict.device_model import (
    UNKNOWN_DISCREPANCY,
    FittedCoefficients,
    coefficient_variance,
    estimate_steps,
)
from joulelab.predict.hardware_profile import HardwareProfile, MeasuredRange
from joulelab.predict.measurements import Measurement, read_measured
from joulelab.predict.step_tracing import trace_cases
from joulelab.predict.steps import KINDS, Booleans, OperatorTable, TracedStep, tabulate_operators

DURATION_SCATTER = 0.08
"""Standard deviation of the logarithm of a measured duration about the model. Hosts vary most."""

ENERGY_SCATTER = 0.05
"""The same for energies."""

STARTS = 3
"""Starting points of the search: the prior, and random ones around it."""

TAIL = 5.0
"""Degrees of freedom of Student's t for the errors. Large errors are more frequent than normal."""

FOLDS = 24
"""Maximum number of fits that leave some architectures out."""


class MeasuredSteps(NamedTuple):
    """Measured steps with their operators. Arrays have the shape (steps,)."""

    operators: OperatorTable
    sheet: Datasheet
    duration_s: Floats
    energy_j: Floats  # gross
    idle_power_w: Floats


class LeftOut(NamedTuple):
    """Predictions of each measured step by a fit without its architecture."""

    duration_s: Floats
    energy_j: Floats
    variance: Floats  # of the logarithms of both due to the coefficients; shape (2, steps)


def fit_profile(
    table: Path,
    *,
    name: str,
    device: str | None = None,
    idle_power_w: float | None = None,
    input_shape: tuple[int, ...] = (3, 32, 32),
    matrix_units: bool = True,
    numerics: str | None = None,
    threads: int | None = None,
) -> HardwareProfile:
    """Fit a profile to a table of :func:`~joulelab.predict.measurements.read_measured`.

    Device and numerics default to those of a study. Idle power and input shape are used if the
    table does not state them. In a study in fp32 no convolution could use matrix units. ``threads``
    is the number of threads of a CPU; one thread computes some convolutions in another way.
    """
    measurements, study_device, study_numerics = read_measured(table, input_shape)
    if idle_power_w is not None:
        measurements = [one._replace(idle_power_w=idle_power_w) for one in measurements]
    device = device or study_device
    if device is None:
        known = ", ".join(one.device for one in known_datasheets())
        raise UserError(
            "the table does not name its device",
            hint=f"name it with --device: cpu, or a GPU; there are data sheets for {known}",
        )
    sheet = find_datasheet(device) or generic_datasheet(device)
    if not matrix_units or study_numerics.startswith("fp32"):
        sheet = sheet.without_matrix_units()
    if threads is not None and sheet.kind == "cpu":
        sheet = sheet.model_copy(update={"processors": threads})
    return make_profile(
        name,
        measurements,
        trace_cases([one.case for one in measurements]),
        sheet,
        numerics=numerics or study_numerics,
        source=f"{table.name}: {sum(one.repeats for one in measurements)} rows",
    )


def make_profile(
    name: str,
    measurements: Sequence[Measurement],
    steps: Sequence[TracedStep],
    sheet: Datasheet,
    *,
    numerics: str,
    source: str,
    groups: Sequence[str] | None = None,
    server: str = "",
) -> HardwareProfile:
    """Fit the coefficients and estimate the model's error by leaving out each architecture.

    Measurements of the same group are left out together; by default those of a model. ``server``
    names the inference server that ran the steps.
    """
    measured = combine(measurements, steps, sheet)
    fitted = fit(measured)
    groups = groups or [one.case.model for one in measurements]
    left_out = leave_out(measured, groups, fitted)
    counts_tokens = all(one.case.counts_tokens for one in measurements)
    duration, energy = estimate_discrepancy(measured, left_out, all_inside=counts_tokens)
    values = np.exp(fitted.logs)
    return HardwareProfile(
        name=name,
        numerics=numerics,
        source=source,
        server=server,
        datasheet=sheet,
        idle_power_w=float(np.median(measured.idle_power_w)),
        coefficients={
            one: float(f"{value:.6g}") for one, value in zip(COEFFICIENT_NAMES, values, strict=True)
        },
        log_covariance=[[float(f"{value:.4g}") for value in row] for row in fitted.covariance],
        duration_discrepancy=round(duration, 5),
        energy_discrepancy=round(energy, 5),
        coverage_factor=round(coverage_factor(len(set(groups))), 5),
        seen=_measured_range(measurements, measured, fitted),
    )


def combine(
    measurements: Sequence[Measurement], steps: Sequence[TracedStep], sheet: Datasheet
) -> MeasuredSteps:
    """Combine measurements with their traced steps; the median replaces unknown idle powers."""
    idle_w = np.array([one.idle_power_w for one in measurements])
    if np.isnan(idle_w).all():
        raise UserError(
            "the idle power is unknown",
            why="no row has an idle_power_w",
            hint="state it with --idle-power",
        )
    return MeasuredSteps(
        tabulate_operators(steps, sheet),
        sheet,
        np.array([one.duration_s for one in measurements]),
        np.array([one.energy_j for one in measurements]),
        np.where(np.isnan(idle_w), np.nanmedian(idle_w), idle_w),
    )


def fit(
    measured: MeasuredSteps, used: Booleans | None = None, start: Floats | None = None
) -> FittedCoefficients:
    """Return the most probable coefficients, given the steps used (default: all).

    The search starts from the logarithms ``start``, or from several points.
    """
    centre, covariance = expect_coefficients(measured.sheet)
    width = np.linalg.cholesky(covariance)
    to_widths = np.linalg.inv(width)
    random = np.random.default_rng(0)
    starts = [start] if start is not None else [centre]
    while start is None and len(starts) < STARTS:
        starts.append(centre + width @ random.standard_normal(len(centre)))
    chosen = np.ones(len(measured.duration_s), dtype=bool) if used is None else used

    def residuals(logs: Floats) -> Floats:
        robust = _huber(_scaled_residuals(logs, measured)[:, chosen].ravel())
        return np.concatenate([robust, to_widths @ (logs - centre)])

    found = min((least_squares(residuals, begin) for begin in starts), key=lambda one: one.cost)
    jacobian = np.asarray(found.jac)
    return FittedCoefficients(np.asarray(found.x), np.linalg.inv(jacobian.T @ jacobian))


def leave_out(
    measured: MeasuredSteps, groups: Sequence[str], fitted: FittedCoefficients
) -> LeftOut | None:
    """Predict each step by a fit to the other groups; ``None`` if there are fewer than three."""
    names = np.array(groups)
    distinct = list(dict.fromkeys(groups))
    if len(distinct) < 3:
        return None
    operators, sheet, idle_w = measured.operators, measured.sheet, measured.idle_power_w
    duration_s, energy_j = np.zeros(len(names)), np.zeros(len(names))
    variance = np.zeros((2, len(names)))
    for fold in range(min(FOLDS, len(distinct))):
        out = np.isin(names, distinct[fold::FOLDS])
        without = fit(measured, ~out, start=fitted.logs)
        found = estimate_steps(operators, without.logs, sheet, idle_w)
        spread = coefficient_variance(operators, without, sheet, idle_w)
        duration_s[out], energy_j[out] = found.duration_s[out], found.energy_j[out]
        variance[:, out] = spread[:, out]
    return LeftOut(duration_s, energy_j, variance)


def estimate_discrepancy(
    measured: MeasuredSteps, left_out: LeftOut | None, *, all_inside: bool = False
) -> tuple[float, float]:
    """Estimate the scales of the model's own errors of log duration and log energy.

    With them, 90 % of the residuals are within their 90 % intervals: one architecture that is
    unlike all others does not widen the intervals of all. Or all residuals are inside the 95 %
    intervals, for measurements with several similar errors of each architecture: a new one is
    as likely to be the most unlike as any of those measured.
    """
    share, level = (1.0, 0.95) if all_inside else (0.9, 0.9)
    if left_out is None:
        return UNKNOWN_DISCREPANCY, UNKNOWN_DISCREPANCY
    truth = np.log([measured.duration_s, measured.energy_j])
    residual = truth - np.log([left_out.duration_s, left_out.energy_j])
    needed = (residual / stats.t.ppf((1 + level) / 2, TAIL)) ** 2 - left_out.variance
    duration, energy = np.quantile(needed, share, axis=1, method="inverted_cdf")
    return math.sqrt(max(duration, 0.0)), math.sqrt(max(energy, 0.0))


def coverage_factor(groups: int) -> float:
    """Return the half width of a 95 % interval in its scale, given the number of groups.

    Example:
        >>> round(coverage_factor(16), 2)
        2.73
    """
    return float(stats.t.ppf(0.975, TAIL)) * (1 + 1 / groups)


def _measured_range(
    measurements: Sequence[Measurement], measured: MeasuredSteps, fitted: FittedCoefficients
) -> MeasuredRange:
    operators = measured.operators
    found = estimate_steps(operators, fitted.logs, measured.sheet, measured.idle_power_w)
    shares = {
        kind: operators.sum_by_step(found.operator_s * operators.is_kind(kind)) / found.device_s
        for kind in KINDS
    }
    batches = [one.case.batch_size for one in measurements]
    token_cases = [one.case for one in measurements if one.case.counts_tokens]
    # Decoding takes most of the time of serving.
    token_cases += [one._replace(phase="decode") for one in token_cases if one.phase == "serve"]
    elements = [math.prod(one.case.input_shape) for one in measurements]
    return MeasuredRange(
        architectures=len({one.case.model for one in measurements}),
        cases=len(measurements),
        batch_size=(min(batches), max(batches)),
        input_elements=(min(elements), max(elements)),
        device_share={kind: round(float(max(of_kind)), 4) for kind, of_kind in shares.items()},
        token_kinds=tuple(sorted({one.token_kind for one in token_cases})),
    )


def _scaled_residuals(logs: Floats, measured: MeasuredSteps) -> Floats:
    """Return residuals of durations and energies in standard deviations. Shape: (2, steps)."""
    found = estimate_steps(measured.operators, logs, measured.sheet, measured.idle_power_w)
    return np.stack(
        [
            np.log(found.duration_s / measured.duration_s) / DURATION_SCATTER,
            np.log(found.energy_j / measured.energy_j) / ENERGY_SCATTER,
        ]
    )


def _huber(residual: Floats) -> Floats:
    """Return residuals whose squares are the pseudo-Huber loss 2 (sqrt(1 + r^2) - 1)."""
    found: Floats = np.sign(residual) * np.sqrt(2 * (np.sqrt(1 + residual**2) - 1))
    return found
