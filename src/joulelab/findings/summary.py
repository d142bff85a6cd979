"""Summary of runs: means over repeats with 95 % intervals, and the groups of comparable rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from joulelab.arrays import Floats
from joulelab.findings.schema import records
from joulelab.runs import FACTORS, LIMIT_UNITS
from joulelab.stats.estimates import Pools, estimates
from joulelab.stats.variance import Codes

COMPARABLE = ("study", "machine", "host", "gpu_name", "sources", *FACTORS)
"""Rows that agree in all of these form a group of comparable rows: one study, one machine, the
same sensors and settings. Only within a group are models compared, ranked and correlated."""

KEYS = ("study", "machine", "host", "gpu_name", "sources", "model", "phase", *FACTORS)
"""Runs that differ in one of these are never averaged. ``machine`` is the machine's identity."""

POOLS = ("study", "machine", "host", "gpu_name", "sources", "phase")
"""Rows of the summary that agree in all of these inform each other's scatter."""

CONSTANTS = (
    "parameters",
    "trainable_parameters",
    "size_bytes",
    "macs",
    "macs_per_parameter",
    "macs_per_token",
    "operators",
    "provenance",
)
"""Columns that are the same in all repeats."""

MEANS = ("samples", "tokens", "gpu_power_w", "cpu_power_w", "dram_power_w", "idle_power_w",
         "gpu_utilization_pct", "vram_peak_bytes")  # fmt: skip
"""Columns that are averaged without an interval: powers as energy over time of all repeats."""

ANALYZED = 4
"""Groups of one study and machine that findings are about: those with the most models. A study of
hundreds of settings would otherwise need hundreds of correlations."""


@dataclass(frozen=True, slots=True)
class _Quantity:
    """An estimated quantity: a column over another one, with the columns of its uncertainty.

    Scatter is proportional to the quantity named by ``scale``: itself by default, empty for none.
    Intervals are cut at ``least`` and ``most``, the limits of the quantity.
    """

    name: str
    column: str
    per: str | None = None
    uncertainty: str | None = None
    scale: str | None = None
    least: float = 0.0
    most: float = math.inf


QUANTITIES = (
    _Quantity("gross_j", "gross_j", None, "gross"),
    _Quantity("net_j", "net_j", None, "net", scale="gross_j", least=-math.inf),
    _Quantity("gross_j_per_sample", "gross_j", "samples", "gross"),
    _Quantity(
        "net_j_per_sample", "net_j", "samples", "net", scale="gross_j_per_sample", least=-math.inf
    ),
    _Quantity("mean_power_w", "gross_j", "duration_s", "gross"),
    _Quantity("duration_s", "duration_s"),
    _Quantity("duration_s_per_sample", "duration_s", "samples"),
    _Quantity("gross_j_per_token", "gross_j", "tokens", "gross"),
    _Quantity(
        "net_j_per_token", "net_j", "tokens", "net", scale="gross_j_per_token", least=-math.inf
    ),
    _Quantity("duration_s_per_token", "duration_s", "tokens"),
    _Quantity("accuracy_pct", "accuracy_pct", scale="", most=100.0),
    _Quantity("loss", "loss"),
)

_ENDS = ("", "_low", "_high", "_n", "_random", "_df")


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Average repeats, with 95 % intervals.

    Returns:
        One row per combination of :data:`KEYS`, in order of first appearance: the columns of
        :data:`KEYS`, ``n`` (repeats), :data:`CONSTANTS`, :data:`MEANS`, and for each of
        ``gross_j``, ``net_j``, ``gross_j_per_sample``, ``net_j_per_sample``, ``mean_power_w``,
        ``duration_s``, ``duration_s_per_sample``, the same three per token (of language models),
        ``accuracy_pct`` and ``loss`` the estimate, its
        interval (``gross_j_low``, ``gross_j_high``), the number of repeats that have it
        (``gross_j_n``), the half-width of the interval without what all repeats share
        (``gross_j_random``: what remains in a ratio of two runs of one sensor), and the degrees of
        freedom of the scatter (``gross_j_df``). Values per sample and per second are ratios of
        sums. The formula is that of :func:`joulelab.stats.estimates.estimates`: gain, offset and
        idle power are shared by all repeats, errors at the edges of spans are independent.
        Intervals end where a quantity ends: gross energies at 0, net energies at the upper end of
        gross energy, accuracy at 100 %.
        ``shared_runs`` is the number of repeats during which other processes used the machine.
    """
    keyed = runs.groupby(list(KEYS), dropna=False, sort=False)
    cells = keyed.ngroup().to_numpy()
    first = runs.loc[~runs.duplicated(list(KEYS)).to_numpy()].reset_index(drop=True)
    table = first[[*KEYS, *CONSTANTS]].copy()
    table.insert(len(KEYS), "n", np.bincount(cells, minlength=len(first)))
    for name in MEANS:
        column, per = name, None
        if name.endswith("_power_w"):
            column, per = name.replace("_power_w", "_j"), _values(runs, "duration_s")
        found = estimates(cells, len(first), _values(runs, column), per=per)
        table[name] = found["value"]
    pools = Pools(
        pools=first.groupby(list(POOLS), dropna=False, sort=False).ngroup().to_numpy(),
        blocks=runs.groupby(["study", "block"], dropna=False, sort=False).ngroup().to_numpy(),
    )
    for quantity in QUANTITIES:
        found = _estimated(runs, cells, table, quantity, pools)
        found["low"] = found["low"].clip(lower=quantity.least)
        found["high"] = found["high"].clip(upper=quantity.most)
        if quantity.scale:  # Net energy is at most gross energy.
            most = np.fmax(found["value"], table[f"{quantity.scale}_high"])
            found["high"] = found["high"].clip(upper=most)
        for end in _ENDS:
            table[quantity.name + end] = found[end.removeprefix("_") or "value"]
    shared = runs["shared"].fillna(False).to_numpy(dtype=float)
    table["shared_runs"] = np.bincount(cells, shared, minlength=len(first)).astype("int64")
    return table.copy()


def _estimated(
    runs: pd.DataFrame, cells: Codes, table: pd.DataFrame, quantity: _Quantity, pools: Pools
) -> pd.DataFrame:
    scale = None
    if quantity.scale is not None:
        scale = _values(table, quantity.scale) if quantity.scale else np.ones(len(table))
    return estimates(
        cells,
        len(table),
        _values(runs, quantity.column),
        per=_values(runs, quantity.per) if quantity.per else None,
        correlated=_uncertainty(runs, quantity.uncertainty, "correlated"),
        independent=_uncertainty(runs, quantity.uncertainty, "independent"),
        scale=scale,
        pools=pools,
    )


def _values(table: pd.DataFrame, column: str) -> Floats:
    return np.asarray(table[column].astype("float64"), dtype=float)


def _uncertainty(runs: pd.DataFrame, of: str | None, kind: str) -> Floats | None:
    return None if of is None else _values(runs, f"{of}_{kind}_uncertainty_j")


def measurements(means: pd.DataFrame) -> pd.DataFrame:
    """Add the groups of comparable rows to a summary: the tidy frame that findings and charts read.

    Returns:
        The rows of the summary by group, with the machine's name (see :func:`machine_labels`) as
        ``machine`` and these columns:

        - ``group``: number of the group, 0 for the one with the most models;
        - ``family``: equal for groups that differ in batch size alone;
        - ``rank``: place of the group among those of its study and machine;
        - ``setting``: the levels of the factors that vary within the study, for example
          ``"batch size 128, precision bf16"``; empty where none varies;
        - ``family_setting``: the same without the batch size;
        - ``identity``: the machine's identity;
        - ``unit``: the unit of work, ``"token"`` of language models and ``"sample"`` of others;
        - ``gross_j_per_unit``, ``net_j_per_unit``, ``duration_s_per_unit``, with the ends of those
          per sample or token.

        ``macs`` is of a unit, and ``macs_per_parameter`` is only known of samples.
    """
    table = means.assign(group=group_numbers(means), identity=means["machine"])
    table = table.sort_values("group", kind="stable", ignore_index=True)
    family = [name for name in COMPARABLE if name != "batch_size"]
    table["family"] = table.groupby(family, dropna=False, sort=False).ngroup()
    table = _with_units(table)
    labels = machine_labels(means)
    places = zip(table["host"], table["machine"], strict=True)
    table["machine"] = pd.Series([labels[place] for place in places], dtype="string")
    groups = table.drop_duplicates("group")
    rank = groups.groupby(["study", "machine"]).cumcount()
    table["rank"] = table["group"].map(dict(zip(groups["group"], rank, strict=True)))
    texts: dict[str, dict[int, str]] = {"setting": {}, "family_setting": {}}
    for _, study in table.groupby("study", sort=False):
        several = ["machine"] if study["machine"].nunique() > 1 else []
        names = [*several, *varying(study, (*FACTORS, "sources"))]
        for row in records(study.drop_duplicates("group")[["group", *names]]):
            group, levels = row.pop("group"), row
            others = {name: level for name, level in levels.items() if name != "batch_size"}
            texts["setting"][group] = setting_text(levels)
            texts["family_setting"][group] = setting_text(others)
    for name, by_group in texts.items():
        table[name] = table["group"].map(by_group).astype("string")
    return table


def _with_units(table: pd.DataFrame) -> pd.DataFrame:
    """Add the unit of work of each row, and what it costs."""
    has_tokens = table["tokens"].notna()
    unit = has_tokens.map({True: "token", False: "sample"}).astype("string")
    columns = {
        f"{name}_per_unit{end}": table[f"{name}_per_token{end}"].where(
            has_tokens, table[f"{name}_per_sample{end}"]
        )
        for name in ("gross_j", "net_j", "duration_s")
        for end in _ENDS
    }
    of_sample = table["macs"].astype("float64")
    columns["macs"] = table["macs_per_token"].where(has_tokens, of_sample)
    # A token takes about one MAC per parameter in every dense language model.
    columns["macs_per_parameter"] = table["macs_per_parameter"].mask(has_tokens)
    return table.assign(unit=unit, **columns)


def units_of(runs: pd.DataFrame) -> pd.Series[float]:
    """Return the units of work of runs: tokens where they are counted, else samples."""
    tokens = runs["tokens"].astype("float64")
    return tokens.where(tokens.notna(), runs["samples"].astype("float64"))


def group_numbers(table: pd.DataFrame) -> pd.Series[int]:
    """Number the groups of comparable rows, the group with the most models first.

    Runs and their summary get the same numbers.
    """
    number = table.groupby(list(COMPARABLE), dropna=False, sort=False).ngroup()
    models = table["model"].groupby(number).nunique()
    order = models.sort_values(ascending=False, kind="stable").index
    return number.map({old: new for new, old in enumerate(order)}).astype("int64")


def setting_text(levels: Mapping[str, Any]) -> str:
    """Format the levels of factors.

    Example:
        >>> setting_text({"batch_size": 8, "precision": "bf16"})
        'batch size 8, precision bf16'
    """
    return ", ".join(level_text(name, level) for name, level in levels.items())


def level_text(factor: str, level: Any) -> str:
    """Format a level of a factor.

    Example:
        >>> level_text("power_limit_w", 250.0), level_text("precision", "bf16")
        ('power limit 250 W', 'precision bf16')
    """
    if factor not in LIMIT_UNITS:
        return f"{factor.replace('_', ' ')} {'unknown' if pd.isna(level) else level}"
    text = "as found" if pd.isna(level) else f"{float(level):g} {LIMIT_UNITS[factor]}"
    return f"{limit_name(factor)} {text}"


def limit_name(factor: str) -> str:
    """Return the name of a limit without its unit, for example ``"power limit"``."""
    return factor.rpartition("_")[0].replace("_", " ")


def varying(table: pd.DataFrame, columns: Sequence[str] = FACTORS) -> list[str]:
    """Return those of the columns that have more than one value."""
    return [name for name in columns if table[name].nunique(dropna=False) > 1]


def machine_labels(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Name each machine, by host and identity, as briefly as distinguishes them.

    The name is the host's; with the GPU's where different machines share it; with the identity
    where they share that too.

    Args:
        table: Any with the columns ``host``, ``machine`` and ``gpu_name``.
    """
    machines = table[["host", "machine", "gpu_name"]].drop_duplicates(["host", "machine"])
    short: dict[tuple[str, str], str] = {}
    long: dict[tuple[str, str], str] = {}
    for host, machine, gpu_name in machines.itertuples(index=False):
        short[host, machine] = host
        long[host, machine] = f"{host} ({'no GPU' if pd.isna(gpu_name) else gpu_name})"
    full = {key: f"{name}, {key[1]}" for key, name in long.items()}
    for shorter, longer in ((long, full), (short, long)):
        shared = Counter(shorter.values())
        for key, name in shorter.items():
            if shared[name] > 1:
                shorter[key] = longer[key]
    return short
