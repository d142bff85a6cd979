"""Runs of invented studies with planted effects of factors, as tables: no file is written."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np

from joulelab.findings.cell_means import CellMeans
from joulelab.findings.factor_effects import factor_and_setting_effects
from joulelab.findings.schema import RUN_COLUMNS, frame
from joulelab.findings.summary import measurements, summary

MODELS = ("LeNet", "ResNet18")
FACTORS = {
    "precision": ["fp32", "bf16"],
    "memory_format": ["contiguous", "channels_last"],
    "optimizer": ["sgd", "adam"],
}


def run_table(
    planted=lambda **_: (0.0, 0.0, 0.0),
    *,
    seed=0,
    models=MODELS,
    factors=FACTORS,
    repeats=3,
    phases=("train", "infer"),
    noise=(0.02, 0.01, 0.5),
    missing=0.0,
):
    """Return the runs of a study.

    Args:
        planted: Model, phase and levels to what is planted: logarithms of power and time, and
            percentage points of accuracy.
        noise: Standard deviations of the logarithms of power and time, and of accuracy.
        missing: The part of the runs that failed.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for block in range(repeats):
        shift = rng.normal(size=3) * noise
        for model, *levels in product(models, *factors.values()):
            if rng.random() < missing:
                continue
            named = dict(zip(factors, levels, strict=True))
            for phase in phases:
                effect = planted(model=model, phase=phase, **named)
                power, time, points = np.array(effect) + shift + rng.normal(size=3) * noise
                rows.append(_row(model, phase, block, named, power, time, points))
    return frame(rows, RUN_COLUMNS)


def _row(model, phase, block, levels, power, time, points):
    duration_s = (1 + MODELS.index(model) if model in MODELS else 1.0) * math.exp(time)
    net_j = 200 * math.exp(power) * duration_s
    return {
        "run_id": f"{model}-{phase}-{block}-{'-'.join(map(str, levels.values()))}",
        "study": "planted", "machine": "m", "host": "h", "gpu_name": "g", "sources": "s",
        "model": model, "phase": phase, "block": block, "repeat": block, "status": "done",
        "samples": 1000, "duration_s": duration_s, "gross_j": net_j + 100 * duration_s,
        "net_j": net_j, "accuracy_pct": 80 + points,
        "gross_correlated_uncertainty_j": 0.0, "gross_independent_uncertainty_j": 0.0,
        "net_correlated_uncertainty_j": 0.0, "net_independent_uncertainty_j": 0.0,
    } | levels  # fmt: skip


def effects_of(runs, measured=None, models=MODELS, factors=FACTORS):
    """Return the tables of effects and settings of such runs, which ``measured`` may summarise."""
    plan = {"models": list(models), "factors": factors}
    studies = [SimpleNamespace(label="planted", plan=plan)]
    measured = measurements(summary(runs)) if measured is None else measured
    return factor_and_setting_effects(studies, measured, CellMeans(runs))
