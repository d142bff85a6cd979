"""Mean power by component against its limit, and the power beyond which utilisation levels off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from joulelab.findings.schema import ALPHA, KEY, PHASES, Finding, frame, records
from joulelab.format import count, number, p_value, percent, quantity, sentence, with_interval
from joulelab.machine import Machine
from joulelab.runs.study_runs import Study
from joulelab.stats.estimates import mean_with_errors
from joulelab.stats.segments import LEAST, Segments, two_segments

NEAR = 0.9
"""A component that draws more than this share of its limit works near it."""

COMPONENTS: Mapping[str, str] = {
    "gpu": "the GPU",
    "cpu": "the CPU",
    "dram": "the memory",
    "all": "all measured components",
}
"""Components and their names."""

COMPONENT_POWER = (
    *KEY, "model", "phase", "component", "power_w", "low_w", "high_w", "limit_w", "limit",
    "share_pct",
)  # fmt: skip
"""Columns of :func:`component_power`. ``component`` is one of :data:`COMPONENTS`; ``limit`` names
``limit_w``, for example ``GPU power limit``; ``share_pct`` is the share of the limit. Only ``all``
has an interval. A log that does not name the source of its power gives ``all`` alone."""

UTILIZATION = (
    *KEY, "model", "phase", "power_w", "utilization_pct", "vram_gib", "fitted_pct",
    "above_knee",
)  # fmt: skip
"""Columns of :func:`utilization`. ``fitted_pct`` and ``above_knee`` are empty without a knee."""

KNEES = (
    *KEY, "phase", "shown", "knee_w", "low_w", "high_w", "intercept_pct", "slope_below_pct_per_w",
    "slope_above_pct_per_w", "p", "saving_w", "saving_pct", "models_above", "n",
)  # fmt: skip
"""Columns of :func:`knees`. ``shown`` states whether two segments fit significantly better than
one line (``p``), the upper one flatter; otherwise the other values are empty. ``saving_w`` is what
the models above the knee draw beyond it, on average, and ``saving_pct`` its share of their
power."""


def power_limits(machine: Machine) -> dict[str, tuple[float, str]]:
    """Return the limits in watts, with their names: of all GPUs, and of all CPUs (TDP).

    A kind of component is left out unless the limits of all its members are known.
    """
    found: dict[str, tuple[float, str]] = {}
    known_w = [gpu.power_limit_w for gpu in machine.gpus if gpu.power_limit_w is not None]
    if machine.gpus and len(known_w) == len(machine.gpus):
        found["gpu"] = math.fsum(known_w), "GPU power limit"
    if machine.cpu_tdp_w and machine.cpu_sockets:
        found["cpu"] = machine.cpu_tdp_w * machine.cpu_sockets, "CPU TDP"
    return found


def component_power(studies: Sequence[Study], measured: pd.DataFrame) -> pd.DataFrame:
    """Make one row per model, phase and component with a known mean power."""
    limits = {
        machine.identity: power_limits(machine) for study in studies for machine in study.machines()
    }
    rows: list[dict[str, Any]] = []
    for row in records(measured):
        rows += _powers(row, limits.get(row["identity"], {}))
    return frame(rows, COMPONENT_POWER)


def _powers(
    row: Mapping[str, Any], limits: Mapping[str, tuple[float, str]]
) -> Iterator[dict[str, Any]]:
    for component in COMPONENTS:
        power_w = row["mean_power_w" if component == "all" else f"{component}_power_w"]
        if math.isnan(power_w):
            continue
        found = {name: row[name] for name in (*KEY, "model", "phase")}
        found |= {"component": component, "power_w": power_w}
        if component == "all":
            found |= {"low_w": row["mean_power_w_low"], "high_w": row["mean_power_w_high"]}
        if component in limits:
            limit_w, name = limits[component]
            found |= {"limit_w": limit_w, "limit": name, "share_pct": 100 * power_w / limit_w}
        yield found


def power_findings(powers: pd.DataFrame) -> list[Finding]:
    """State the mean power of each component. Ids: ``power.<phase>.<component>``."""
    return [
        _power_finding(part.sort_values("power_w", kind="stable"))
        for _, part in powers.groupby(["group", "phase", "component"], sort=False)
    ]


def _power_finding(part: pd.DataFrame) -> Finding:
    rows = records(part)
    first, last, n = rows[0], rows[-1], len(rows)
    component, phase = first["component"], PHASES[first["phase"]]
    mean_w, low_w, high_w = first["power_w"], first["low_w"], first["high_w"]
    if n > 1:
        own_w = ((part["high_w"] - part["low_w"]) / 2).to_numpy(dtype=float)
        mean_w, half_w = mean_with_errors(part["power_w"].to_numpy(dtype=float), own_w)
        low_w, high_w = max(0.0, mean_w - half_w), mean_w + half_w
    value = with_interval(mean_w, low_w, high_w, "W")
    text = f"the mean power of {COMPONENTS[component]} in {phase} is {value} for {first['model']}"
    if n > 1:
        own = "" if part["low_w"].notna().all() else ", excluding the sensors' own uncertainty"
        text = (
            f"over {n} models, the mean power of {COMPONENTS[component]} in {phase} is {value}{own}"
        )
        ends = [quantity(row["power_w"], "W") for row in (first, last)]
        if ends[0] != ends[1]:
            text += f"; it ranges from {ends[0]} ({first['model']}) to {ends[1]} ({last['model']})"
    texts = [text, _share_of_limit(part)] if component in ("gpu", "cpu") else [text]
    return Finding.about(
        first,
        f"power.{first['phase']}.{component}",
        f"What is the mean power of {COMPONENTS[component]} in {phase}?",
        texts,
        answer=sentence("; ".join(texts)),
        estimate=mean_w,
        low=low_w,
        high=high_w,
        n=n,
        unit="W",
        figure="power",
        detail=component not in ("gpu", "all"),
    )


def _share_of_limit(part: pd.DataFrame) -> str:
    if part["limit_w"].isna().all():
        return "its limit is not recorded, so the headroom is unknown"
    near = int((part["share_pct"] > 100 * NEAR).sum())
    limit = f"{part['limit'].iloc[0]} of {quantity(float(part['limit_w'].iloc[0]), 'W')}"
    share = percent(float(part["share_pct"].mean()) / 100)
    models = f"{near} of {count(len(part), 'model')}"
    return f"this is {share} of the {limit}, with {models} above {100 * NEAR:g} %"


def gpu_points(measured: pd.DataFrame) -> pd.DataFrame:
    """Return a GPU's mean power and utilisation with its peak memory, a row per model and phase.

    Where a log does not name the source of its only power, on a machine with a GPU, the power
    counts as the GPU's.

    Returns:
        Columns :data:`UTILIZATION`, the last two empty.
    """
    rows: list[dict[str, Any]] = []
    for row in records(measured):
        power_w = row["gpu_power_w"]
        unnamed = str(row["sources"]).startswith("power=") and not pd.isna(row["gpu_name"])
        if math.isnan(power_w) and unnamed:
            power_w = row["mean_power_w"]
        if not (math.isnan(power_w) or math.isnan(row["gpu_utilization_pct"])):
            named = {"power_w": power_w, "utilization_pct": row["gpu_utilization_pct"]}
            rows.append(row | named | {"vram_gib": row["vram_peak_bytes"] / 2**30})
    return frame(rows, UTILIZATION)


def knees(points: pd.DataFrame) -> pd.DataFrame:
    """Fit two segments of utilisation over power to the points of each group and phase."""
    rows = []
    for _, part in points.groupby(["group", "phase"], sort=False):
        power_w = part["power_w"].to_numpy(dtype=float)
        found = two_segments(power_w, part["utilization_pct"].to_numpy(dtype=float))
        row = {name: part[name].iloc[0] for name in (*KEY, "phase")} | {"n": len(part)}
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
    """Add the fit of the two segments to the points, where there is a knee."""
    table = points.copy()
    for row in records(found[found["shown"]]):
        part = points[(points["group"] == row["group"]) & (points["phase"] == row["phase"])]
        below = row["slope_below_pct_per_w"] * part["power_w"].clip(upper=row["knee_w"])
        above = row["slope_above_pct_per_w"] * (part["power_w"] - row["knee_w"]).clip(lower=0)
        table.loc[part.index, "fitted_pct"] = row["intercept_pct"] + below + above
        table.loc[part.index, "above_knee"] = part["power_w"] > row["knee_w"]
    return table


def _is_knee(found: Segments | None) -> bool:
    return found is not None and found.p < ALPHA and found.below > max(found.above, 0.0)


def knee_findings(found: pd.DataFrame) -> list[Finding]:
    """State where the knee is and what a power cap there would save. Ids: ``knee.<phase>``."""
    return [_knee_finding(row) for row in records(found)]


def _knee_finding(row: dict[str, Any]) -> Finding:
    return Finding.about(
        row,
        f"knee.{row['phase']}",
        f"Beyond which power does GPU utilisation level off in {PHASES[row['phase']]}?",
        _knee_texts(row) if row["shown"] else [_no_knee(row)],
        **({"answer": sentence(_knee_answer(row))} if row["shown"] else {}),
        estimate=row["knee_w"],
        low=row["low_w"],
        high=row["high_w"],
        unit="W",
        figure="utilization",
        significant=None if math.isnan(row["p"]) else bool(row["shown"]),
    )


def _no_knee(row: dict[str, Any]) -> str:
    models, p = count(row["n"], "model"), row["p"]
    if math.isnan(p):
        return f"{models} are too few: {LEAST} with distinct power and utilisation are needed"
    if p < ALPHA:
        return (
            f"utilisation does not level off: its slope over power changes significantly over "
            f"{models} ({p_value(p)}), but does not become flatter"
        )
    return (
        f"no significant knee (95 %): over {models}, one line fits utilisation over power as well "
        f"as two segments ({p_value(p)}); more models between idle and full power are needed"
    )


def _knee_answer(row: dict[str, Any]) -> str:
    knee = with_interval(row["knee_w"], row["low_w"], row["high_w"], "W")
    return (
        f"over {row['n']} models, GPU utilisation in {PHASES[row['phase']]} levels off at {knee}; "
        f"{_above_knee(row)}, the most that a power cap could save"
    )


def _above_knee(row: dict[str, Any]) -> str:
    return (
        f"the {count(row['models_above'], 'model above draws', 'models above draw')} "
        f"{quantity(row['saving_w'], 'W')} ({percent(row['saving_pct'] / 100)}) more than that on "
        "average"
    )


def _knee_texts(row: dict[str, Any]) -> list[str]:
    knee = with_interval(row["knee_w"], row["low_w"], row["high_w"], "W")
    below, above = (number(100 * row[f"slope_{side}_pct_per_w"], 2) for side in ("below", "above"))
    return [
        f"over {row['n']} models, utilisation levels off at {knee}: below, 100 W more go with "
        f"{below} percentage points more utilisation; above, with {above} (compared with one "
        f"line: {p_value(row['p'])})",
        f"{_above_knee(row)}: the most that a power cap could save",
        "only runs with a power cap can show its cost in time",
    ]
