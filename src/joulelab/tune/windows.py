"""Turn a measured piece of real work into a probe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.forecast.steady import sections
from joulelab.tune.probes import Probe, Settings


def probe_of(
    settings: Settings,
    energy: Energy,
    durations_s: Sequence[float],
    work: Sequence[float],
) -> Probe:
    """Make a probe of steady steps (:class:`joulelab.forecast.steady.SteadyWindow`).

    The time's own uncertainty is the standard error of the mean over sections of the steps
    (Schmeiser, Operations Research 30, 1982); NaN for a single step. The energy's is that of the
    span's edges and noise, and of the time: slower steps take more energy. A sensor's gain and
    offset are the same in all probes and left out.

    Args:
        settings: Level of each knob.
        energy: Of all the steps together.
        durations_s: Of each step, with the wait before it.
        work: Units of work in each step, for example samples.

    Raises:
        UserError: No energy was measured.
    """
    if not energy.gross_j > 0:
        raise UserError(
            "cannot tune: no energy was measured",
            why="; ".join(f"{name}: {why}" for name, why in energy.absent.items()),
            hint="run joulelab doctor to see what can be measured here",
        )
    first = sections(len(durations_s))
    spent_s, done = np.add.reduceat(durations_s, first), np.add.reduceat(work, first)
    duration_s, units = float(spent_s.sum()), float(done.sum())
    residual = spent_s - done * (duration_s / units)
    n = len(first)
    # Of a ratio of sums (Cochran, Sampling Techniques, 3rd ed., section 2.11).
    relative = (
        math.sqrt(n / (n - 1) * float(residual @ residual)) / duration_s if n > 1 else math.nan
    )
    edges_j = math.hypot(*(part.edge_uncertainty_j for part in energy.components.values()))
    return Probe(
        settings=dict(settings),
        duration_s=duration_s / units,
        energy_j=energy.gross_j / units,
        duration_uncertainty_s=relative * duration_s / units,
        energy_uncertainty_j=math.hypot(edges_j, relative * energy.gross_j) / units,
        work=units,
    )
