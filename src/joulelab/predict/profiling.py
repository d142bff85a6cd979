"""Making a hardware profile from measured steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from joulelab.errors import UserError
from joulelab.predict.cases import Measurement
from joulelab.predict.device_model import Coefficients, device_shares, estimate
from joulelab.predict.devices import Datasheet
from joulelab.predict.fitting import Observed, fit
from joulelab.predict.hardware import (
    HardwareProfile,
    Seen,
    Sheet,
    coefficients_of,
    covariance_of,
)
from joulelab.predict.leaving_out import coverage_factor, discrepancy, leave_out
from joulelab.predict.operators import KINDS, Step
from joulelab.predict.work import work_of


def observe(
    measurements: Sequence[Measurement], steps: Sequence[Step], sheet: Datasheet
) -> Observed:
    """Measured steps with their operators.

    Where idle power is not known it is the median of those that are.

    Args:
        measurements: What was measured.
        steps: Traced, one for each.
        sheet: Of the device.

    Raises:
        UserError: No row tells idle power.
    """
    idle_w = np.array([one.idle_power_w for one in measurements])
    if np.isnan(idle_w).all():
        raise UserError(
            "idle power is not known",
            why="no row has an idle_power_w",
            hint="give it with --idle-power",
        )
    return Observed(
        work_of(steps),
        sheet,
        np.array([one.duration_s for one in measurements]),
        np.array([one.energy_j for one in measurements]),
        np.where(np.isnan(idle_w), np.nanmedian(idle_w), idle_w),
    )


def make_profile(
    name: str,
    measurements: Sequence[Measurement],
    steps: Sequence[Step],
    sheet: Datasheet,
    *,
    numerics: str,
    source: str,
    groups: Sequence[str] | None = None,
) -> HardwareProfile:
    """Fits the coefficients, leaves architectures out in turn, and notes what was seen.

    Args:
        name: The profile's.
        measurements: What was measured.
        steps: Traced, one for each.
        sheet: Of the device.
        numerics: Number formats and settings of what was measured.
        source: Where the measurements came from.
        groups: Which measurements are left out together; default: those of a model.

    Raises:
        UserError: No row tells idle power.
    """
    observed = observe(measurements, steps, sheet)
    fitted = fit(observed)
    groups = groups or [one.case.model for one in measurements]
    duration, energy = discrepancy(observed, leave_out(observed, groups, fitted))
    return HardwareProfile(
        name=name,
        numerics=numerics,
        source=source,
        datasheet=Sheet(**sheet._asdict()),
        idle_power_w=float(np.median(observed.idle_power_w)),
        coefficients=coefficients_of(fitted),
        log_covariance=covariance_of(fitted),
        duration_discrepancy=round(duration, 5),
        energy_discrepancy=round(energy, 5),
        coverage_factor=round(coverage_factor(len(set(groups))), 5),
        seen=_seen(measurements, observed, fitted),
    )


def _seen(measurements: Sequence[Measurement], observed: Observed, fitted: Coefficients) -> Seen:
    found = estimate(observed.work, fitted.logs, observed.sheet, observed.idle_power_w)
    shares = device_shares(observed.work, found)
    batches = [one.case.batch_size for one in measurements]
    elements = [math.prod(one.case.input_shape) for one in measurements]
    return Seen(
        architectures=len({one.case.model for one in measurements}),
        cases=len(measurements),
        batch_size=(min(batches), max(batches)),
        input_elements=(min(elements), max(elements)),
        device_share={kind: round(max(one[kind] for one in shares), 4) for kind in KINDS},
    )
