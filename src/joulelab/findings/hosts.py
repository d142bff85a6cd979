"""Hosts of one study: their runs are pooled where the hardware is the same, and compared.

Runs of hosts with the same hardware are averaged, with what each host ran of a block as a block of
its own, so that cells are compared on one host. Hosts of other hardware have another identity and
are never averaged with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from joulelab.findings.schema import NAMES, PHASES, Finding, frame, records
from joulelab.findings.summary import units_of
from joulelab.format import change, count, join_words, number
from joulelab.runs import FACTORS
from joulelab.stats.estimates import UPPER

HOST_EFFECTS = (
    "study", "machine", "host", "phase", "unit", "quantity", "estimate", "low", "high", "shares",
    "hosts", "df",
)  # fmt: skip
"""Columns of :func:`host_effects`. ``estimate`` is the ratio of what the same cells cost on a host
to what they cost on the others of its hardware, with an interval that is simultaneous for all of
them; ``shares`` is the number of blocks of which it ran cells."""

_COLUMNS = {"gross": "gross_j", "time": "duration_s"}
_CELL = ["model", *FACTORS]
_MOST_NAMED = 3


def pool_hosts(runs: pd.DataFrame) -> pd.DataFrame:
    """Give hosts of the same hardware in a study one name, and each part of a block a number.

    Args:
        runs: Columns of :func:`joulelab.findings.tables.run_table`.
    """
    place = [runs["study"], runs["machine"]]
    several = runs["host"].groupby(place, dropna=False).transform("nunique") > 1
    if not several.any():
        return runs
    names = runs["host"].groupby(place, dropna=False).transform(joint_name)
    parts = runs.groupby(["block", "host"], dropna=False).ngroup()
    return runs.assign(
        host=names.where(several, runs["host"]).astype(runs["host"].dtype),
        block=parts.where(several, runs["block"]).astype(runs["block"].dtype),
    )


def joint_name(hosts: Iterable[str]) -> str:
    """Name several hosts as one; empty for none.

    Example:
        >>> joint_name(["n2", "n1", "n2"]), joint_name(["n1", "n2", "n3", "n4"])
        ('n1 and n2', 'n1 and 3 more hosts')
    """
    names = sorted({name for name in hosts if isinstance(name, str)})
    if len(names) <= _MOST_NAMED:
        return join_words(names) if names else ""
    return f"{names[0]} and {len(names) - 1} more hosts"


def host_effects(runs: pd.DataFrame) -> pd.DataFrame:
    """Compare each host with the others of its hardware in each study.

    What a host ran of a block is a share. The logarithms of energies and times are a sum of
    effects of cells and of shares (least squares). Hosts are compared by their shares, whose
    scatter on one host, pooled over hosts, is the error: blocks that one host runs at different
    times differ, too. Level: Bonferroni's for the number of hosts.

    Args:
        runs: Columns of :func:`joulelab.findings.tables.run_table`, not pooled.

    Returns:
        Columns :data:`HOST_EFFECTS`; no rows where a study has one host of a kind.
    """
    rows: list[dict[str, Any]] = []
    keyed = runs.assign(units=units_of(runs))
    for (study, machine, phase), part in keyed.groupby(["study", "machine", "phase"], sort=False):
        unit = "sample" if part["tokens"].isna().all() else "token"
        named = {"study": study, "machine": machine, "phase": phase, "unit": unit}
        for quantity, column in _COLUMNS.items():
            values = part[column].astype("float64") / part["units"]
            known = part[np.isfinite(values) & (values > 0)]
            if known["host"].nunique() > 1:
                found = _effects(known, np.log(values[known.index].to_numpy(dtype=float)))
                rows += [named | {"quantity": quantity} | one for one in found]
    return frame(rows, HOST_EFFECTS)


def _effects(part: pd.DataFrame, values: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    cells = part.groupby(_CELL, dropna=False).ngroup().to_numpy()
    shares = part.groupby(["block", "host"], dropna=False).ngroup().to_numpy()
    hosts = part.assign(share=shares).drop_duplicates("share").sort_values("share")["host"]
    n_cells, n_shares = int(cells.max()) + 1, int(shares.max()) + 1
    design = np.zeros((len(values), n_cells + n_shares))
    rows = np.arange(len(values))
    design[rows, cells] = 1.0
    design[rows, n_cells + shares] = 1.0
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    if rank < n_cells + n_shares - 1:
        return []  # Some hosts have no cell in common with the others.
    effect = solution[n_cells:]
    names, codes = np.unique(hosts.to_numpy(dtype=object), return_inverse=True)
    counts = np.bincount(codes)
    means = np.bincount(codes, weights=effect) / counts
    df = n_shares - len(names)
    variance = float(((effect - means[codes]) ** 2).sum()) / df if df > 0 else math.nan
    quantile = stats.t.ppf(1 - (1 - UPPER) / len(names), df) if df > 0 else math.nan
    found = []
    for index, name in enumerate(names):
        others = np.delete(means, index)
        weights = 1 / counts[index] + float((1 / np.delete(counts, index)).sum()) / len(others) ** 2
        value, half = means[index] - others.mean(), quantile * math.sqrt(variance * weights)
        found.append(
            {
                "host": name,
                "estimate": math.exp(value),
                "low": math.exp(value - half),
                "high": math.exp(value + half),
                "shares": int(counts[index]),
                "hosts": len(names),
                "df": df,
            }
        )
    return found


def host_findings(effects: pd.DataFrame) -> list[Finding]:
    """State whether a host differs from the others. Ids: ``hosts.<phase>.<gross|time>``."""
    keys = ["study", "machine", "phase", "quantity"]
    return [
        _finding(records(part.sort_values("estimate", ascending=False, kind="stable")))
        for _, part in effects.groupby(keys, sort=False)
    ]


def _finding(rows: Sequence[dict[str, Any]]) -> Finding:
    first = rows[0]
    name, phase = NAMES[first["quantity"]], PHASES[first["phase"]]
    tested = first["df"] > 0
    apart = [row for row in rows if not row["low"] <= 1 <= row["high"]] if tested else []
    shown = max(apart or rows, key=lambda row: abs(math.log(row["estimate"])))
    hosts = count(int(first["hosts"]), "host")
    if not tested:
        texts = [
            f"hosts cannot be compared: each of {hosts} with the same hardware ran cells of one "
            "block, which may differ for other reasons, such as its time",
            "more repeats than hosts are needed",
        ]
    elif apart:
        texts = [
            f"for the same cells, the {name} of {phase} on {row['host']} differs significantly "
            f"from that on the other hosts, by {_change(row)}"
            for row in apart
        ]
        texts.append(f"the intervals are corrected for comparing {hosts} with the same hardware")
    else:
        texts = [
            f"no host differs significantly from the others in the {name} of {phase} (95 %, "
            f"corrected for {hosts} with the same hardware); {shown['host']} differs most, by "
            f"{_change(shown)}",
            f"{number(first['df'], 2)} degrees of freedom; more repeats narrow the intervals",
        ]
    return Finding.about(
        shown,
        f"hosts.{first['phase']}.{first['quantity']}",
        f"Is one host worse than the others in the {name} of {phase}?",
        texts,
        n=int(first["hosts"]),
        significant=bool(apart) if tested else None,
    )


def _change(row: dict[str, Any]) -> str:
    return change(row["estimate"], row["low"], row["high"])
