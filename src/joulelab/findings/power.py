"""Mean power by component, against what the component may draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from statsmodels.stats.weightstats import DescrStatsW  # type: ignore[import-untyped]

from joulelab.findings.data import Group, placed
from joulelab.findings.findings import Finding
from joulelab.findings.frames import PLACE, REAL, TEXT, frame, records
from joulelab.findings.terms import PHASES
from joulelab.findings.words import counted, number, sentence, with_interval
from joulelab.machine import Machine
from joulelab.runs.studies import Study

NEAR = 0.9
"""A component that draws more than this share of its limit works near it."""

COMPONENTS: Mapping[str, str] = {
    "gpu": "the GPU",
    "cpu": "the CPU",
    "dram": "the DRAM",
    "all": "all that was read",
}
"""Components, as a reader calls them."""

COMPONENT_POWER: Mapping[str, str] = {
    **PLACE,
    "model": TEXT,
    "phase": TEXT,
    "component": TEXT,
    "power_w": REAL,
    "low_w": REAL,
    "high_w": REAL,
    "limit_w": REAL,
    "limit": TEXT,
    "share_pct": REAL,
}
"""Columns of :func:`component_power`. ``component`` is one of :data:`COMPONENTS`; ``limit`` names
``limit_w``, as ``GPU power limit``; ``share_pct`` is of the limit. Only ``all`` has an interval.
A log that does not tell what its power is of gives ``all`` alone."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a kind of component may draw, all of them together.

    Attributes:
        component: ``"gpu"`` or ``"cpu"``.
        power_w: The limit.
        name: What it is, as ``"GPU power limit"``.
    """

    component: str
    power_w: float
    name: str


def limits(machine: Machine) -> list[Limit]:
    """Power limits of a machine's GPUs and the TDP of its CPUs, where all of them are known."""
    found: list[Limit] = []
    known_w = [gpu.power_limit_w for gpu in machine.gpus if gpu.power_limit_w is not None]
    if machine.gpus and len(known_w) == len(machine.gpus):
        found.append(Limit("gpu", math.fsum(known_w), "GPU power limit"))
    if machine.cpu_tdp_w and machine.cpu_sockets:
        found.append(Limit("cpu", machine.cpu_tdp_w * machine.cpu_sockets, "CPU TDP"))
    return found


def component_power(studies: Sequence[Study], groups: Sequence[Group]) -> pd.DataFrame:
    """Mean power, one row a model, phase and component that was measured or estimated.

    Args:
        studies: Where the machines of the groups are described.
        groups: Models measured alike.

    Returns:
        Columns as :data:`COMPONENT_POWER`.
    """
    by_machine = {
        machine.identity: {limit.component: limit for limit in limits(machine)}
        for study in studies
        for machine in study.machines()
    }
    rows: list[dict[str, Any]] = []
    for group in groups:
        identity = str(group.table["machine"].iloc[0])
        for row in records(placed([group])):
            rows += _powers(row, by_machine.get(identity, {}))
    return frame(rows, COMPONENT_POWER)


def _powers(row: dict[str, Any], known: Mapping[str, Limit]) -> list[dict[str, Any]]:
    rows = []
    for component in COMPONENTS:
        power_w = row["mean_power_w" if component == "all" else f"{component}_power_w"]
        if math.isnan(power_w):
            continue
        found = {name: row[name] for name in (*PLACE, "model", "phase")}
        found |= {"component": component, "power_w": power_w}
        if component == "all":
            found |= {"low_w": row["mean_power_w_low"], "high_w": row["mean_power_w_high"]}
        if component in known:
            limit = known[component]
            share_pct = 100 * power_w / limit.power_w
            found |= {"limit_w": limit.power_w, "limit": limit.name, "share_pct": share_pct}
        rows.append(found)
    return rows


def power_findings(powers: pd.DataFrame) -> list[Finding]:
    """How much power models draw, and how near to a limit. Ids: ``power.<phase>.<component>``."""
    keys = [*PLACE, "phase", "component"]
    return [
        _finding(part.sort_values("power_w", kind="stable"))
        for _, part in powers.groupby(keys, sort=False)
    ]


def _finding(part: pd.DataFrame) -> Finding:
    rows = records(part)
    first, last, n = rows[0], rows[-1], len(rows)
    name, phase = COMPONENTS[first["component"]], PHASES[first["phase"]]
    mean_w = float(part["power_w"].mean())
    low_w, high_w = _mean_interval_w(part) if n > 1 else (first["low_w"], first["high_w"])
    text = f"in {phase}, {name} draws {with_interval(mean_w, low_w, high_w, 'W')}"
    if n > 1:
        aside = "" if part["low_w"].notna().all() else ", the sensors' own uncertainty aside"
        text += (
            f" on average over {n} models{aside}, from {number(first['power_w'])} W "
            f"({first['model']}) to {number(last['power_w'])} W ({last['model']})"
        )
    texts = [text]
    if first["component"] in ("gpu", "cpu"):
        texts.append(_against_limit(part))
    return Finding(
        id=f"power.{first['phase']}.{first['component']}",
        question=f"How much power does {name} draw in {phase}?",
        statement=" ".join(sentence(text) for text in texts),
        estimate=mean_w,
        low=low_w,
        high=high_w,
        n=n,
        unit="W",
        study=first["study"],
        setting=first["setting"],
        figure="power",
        detail=first["component"] not in ("gpu", "all"),
    )


def _mean_interval_w(part: pd.DataFrame) -> tuple[float, float]:
    """The 95 % interval of the mean over models, with the sensors' own where it is known.

    The sensors err alike for all models, so that theirs does not average away; the two join by the
    root of the sum of squares (GUM 5.1.2).
    """
    low_w, high_w = (float(end) for end in DescrStatsW(part["power_w"]).tconfint_mean())
    own_w = (part["high_w"] - part["low_w"]).mean(skipna=False) / 2
    half_w = math.hypot((high_w - low_w) / 2, 0.0 if math.isnan(own_w) else own_w)
    mean_w = (low_w + high_w) / 2
    return mean_w - half_w, mean_w + half_w


def _against_limit(part: pd.DataFrame) -> str:
    if part["limit_w"].isna().all():
        return "what it may draw is not recorded, so how near to a limit that is cannot be said"
    near = int((part["share_pct"] > 100 * NEAR).sum())
    limit = f"{part['limit'].iloc[0]} of {number(float(part['limit_w'].iloc[0]))} W"
    return (
        f"{near} of {counted(len(part), 'model')} draw more than {100 * NEAR:g} % of the {limit}; "
        f"the mean is {number(float(part['share_pct'].mean()))} %"
    )
