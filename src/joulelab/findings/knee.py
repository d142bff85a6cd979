"""The power beyond which watts buy no utilisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from joulelab.findings.data import Group, placed
from joulelab.findings.findings import Finding
from joulelab.findings.frames import FLAG, INT, PLACE, REAL, TEXT, frame, records
from joulelab.findings.terms import PHASES
from joulelab.findings.words import counted, number, probability, sentence, with_interval
from joulelab.stats.segments import LEAST, Segments, two_segments

ALPHA = 0.05
"""What p is held against."""

UTILIZATION: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "power_w": REAL,
    "utilization_pct": REAL,
    "vram_peak_bytes": REAL,
    "fitted_pct": REAL,
    "above_knee": FLAG,
}
"""Columns of :func:`utilization`. ``fitted_pct`` and ``above_knee`` are empty where no knee is
shown."""

KNEES: Mapping[str, str] = {
    **PLACE,
    "phase": TEXT,
    "shown": FLAG,
    "knee_w": REAL,
    "low_w": REAL,
    "high_w": REAL,
    "intercept_pct": REAL,
    "slope_below_pct_per_w": REAL,
    "slope_above_pct_per_w": REAL,
    "p": REAL,
    "saving_w": REAL,
    "saving_pct": REAL,
    "models_above": INT,
    "n": INT,
}
"""Columns of :func:`knees`. ``shown`` says that two segments fit better than one line (``p``), the
upper one flatter; only then are the others known. ``saving_w`` is what the models above the knee
draw beyond it, on average, and ``saving_pct`` that over what they draw."""


def gpu_points(groups: Sequence[Group]) -> pd.DataFrame:
    """A GPU's mean power and utilisation with the peak of its memory, a row a model and phase.

    Where a log does not tell what its one power is of, on a machine with a GPU, it is taken for
    the GPU's.

    Returns:
        Columns as :data:`UTILIZATION`, the last two empty.
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        for row in records(placed([group])):
            power_w = row["gpu_power_w"]
            unnamed = str(row["sources"]).startswith("power=") and bool(group.gpu_name)
            if math.isnan(power_w) and unnamed:
                power_w = row["mean_power_w"]
            known = not (math.isnan(power_w) or math.isnan(row["gpu_utilization_pct"]))
            if known:
                rows.append(
                    row | {"power_w": power_w, "utilization_pct": row["gpu_utilization_pct"]}
                )
    return frame(rows, UTILIZATION)


def knees(points: pd.DataFrame) -> pd.DataFrame:
    """Two segments of utilisation over power, fitted to the points of each group and phase.

    Args:
        points: See :func:`gpu_points`.

    Returns:
        Columns as :data:`KNEES`; a row a group and phase.
    """
    rows = []
    for _, part in points.groupby([*PLACE, "phase"], sort=False):
        power_w = part["power_w"].to_numpy(dtype=float)
        found = two_segments(power_w, part["utilization_pct"].to_numpy(dtype=float))
        row = {name: part[name].iloc[0] for name in (*PLACE, "phase")} | {"n": len(part)}
        row |= {"p": math.nan if found is None else found.p, "shown": _is_knee(found)}
        if found is not None and _is_knee(found):
            above_w = power_w[power_w > found.bend]
            row |= {
                "knee_w": found.bend,
                "low_w": found.low,
                "high_w": found.high,
                "intercept_pct": found.intercept,
                "slope_below_pct_per_w": found.below,
                "slope_above_pct_per_w": found.above,
                "saving_w": float((above_w - found.bend).mean()),
                "saving_pct": float(100 * (1 - found.bend / above_w).mean()),
                "models_above": len(above_w),
            }
        rows.append(row)
    return frame(rows, KNEES)


def utilization(points: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The points with what the two segments say, where a knee is shown.

    Args:
        points: See :func:`gpu_points`.
        found: See :func:`knees`.
    """
    table = points.copy()
    keys = [*PLACE, "phase"]
    by_place = {tuple(row[key] for key in keys): row for row in records(found[found["shown"]])}
    for key, part in points.groupby(keys, sort=False):
        if key in by_place:
            row, power_w = by_place[key], part["power_w"]
            below, above = row["slope_below_pct_per_w"], row["slope_above_pct_per_w"]
            fitted = row["intercept_pct"] + below * power_w.clip(upper=row["knee_w"])
            table.loc[part.index, "fitted_pct"] = fitted + above * (power_w - row["knee_w"]).clip(
                lower=0
            )
            table.loc[part.index, "above_knee"] = power_w > row["knee_w"]
    return table


def _is_knee(found: Segments | None) -> bool:
    return found is not None and found.p < ALPHA and found.below > max(found.above, 0.0)


def knee_findings(found: pd.DataFrame) -> list[Finding]:
    """Where the knee is and what it would save. Ids: ``knee.<phase>``."""
    return [_finding(row) for row in records(found)]


def _finding(row: dict[str, Any]) -> Finding:
    texts = _shown(row) if row["shown"] else [_not_shown(row)]
    return Finding(
        id=f"knee.{row['phase']}",
        question="Is there a power beyond which more watts buy no utilisation, in "
        f"{PHASES[row['phase']]}?",
        statement=" ".join(sentence(text) for text in texts),
        estimate=row["knee_w"],
        low=row["low_w"],
        high=row["high_w"],
        n=row["n"],
        unit="W",
        study=row["study"],
        setting=row["setting"],
        figure="utilization",
    )


def _not_shown(row: dict[str, Any]) -> str:
    n = counted(row["n"], "model")
    if math.isnan(row["p"]):
        return f"{n} of unlike power and utilisation are too few: at least {LEAST} are needed"
    if row["p"] < ALPHA:
        return (
            f"no knee is shown: utilisation over power bends over {n} ({probability(row['p'])}), "
            "but not to become flatter"
        )
    return (
        f"no knee is shown: over {n} one line of utilisation over power does as well as two "
        f"segments ({probability(row['p'])}); more models between idle and full power would tell"
    )


def _shown(row: dict[str, Any]) -> list[str]:
    knee = with_interval(row["knee_w"], row["low_w"], row["high_w"], "W")
    below, above = (100 * row[f"slope_{side}_pct_per_w"] for side in ("below", "above"))
    return [
        f"over {row['n']} models the knee is at {knee}: below it 100 W more go with "
        f"{number(below, 2)} points of utilisation, beyond it with {number(above, 2)} (one line "
        f"instead: {probability(row['p'])})",
        f"the {counted(row['models_above'], 'model')} beyond it draw {number(row['saving_w'])} W "
        f"({number(row['saving_pct'])} %) more than the knee on average, which is the most that a "
        "cap there could take from their power",
        "what that costs in time only runs with a power cap can tell",
    ]
