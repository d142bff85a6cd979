"""Chart of the effects of factors and of their interactions."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from joulelab.findings.all import Analysis
from joulelab.findings.cell_means import ACCURACY
from joulelab.findings.schema import ENERGIES, records
from joulelab.findings.summary import level_text
from joulelab.report.charts.axes import Axis, axes_remarks
from joulelab.report.charts.chart import Chart, NothingToDraw, Remark, Selector, Single
from joulelab.report.charts.style import (
    PHASES,
    QUIET,
    SERIES_COLOURS,
    caption,
    chart,
    specification,
    tips,
    with_each_energy,
    with_text,
)

MOST_EFFECTS = 30
"""Effects of levels that are drawn."""

MOST_INTERACTIONS = 12
"""Significant interactions that are drawn, the strongest ones."""

_MEASURES = {
    "energy": "Change of energy (%)",
    "time": "Change of time (%)",
    ACCURACY: "Change of accuracy (points)",
}


def effects(analysis: Analysis) -> Chart:
    """Chart the change that each level makes, and the interactions that are significant."""
    table = _rows(analysis.factor_effects)
    if table.empty:
        raise NothingToDraw("no factor has two levels that were measured")
    view = chart(height=22 * table["effect"].nunique())
    base = view.encode(
        y=alt.Y("effect:N", sort=None, title=None),
        color=alt.condition("datum.significant", alt.value(SERIES_COLOURS[0]), alt.value(QUIET)),
        tooltip=tips(table, name="Effect", text="{measure}", n="Combinations"),
    )
    axis = Axis("x", "value", "{measure}", "low", "high", zero=True, is_logarithmic=False)
    by = ["place", "phase", "quantity", "measure"]
    table, x = axis.framed(table, by)
    none = view.mark_rule(strokeDash=[5, 3]).encode(x=alt.XDatum(0))
    points = base.mark_point(filled=True, opacity=1, size=60).encode(x=x.encoded(table))
    measures = {name: text for name, text in _MEASURES.items() if name in set(table["measure"])}
    places = {name: name for name in table["place"].unique()}
    phases = {name: PHASES[name] for name in PHASES if (table["phase"] == name).any()}
    return Chart(
        name="effects",
        caption=caption(
            "Each point is the change that a level makes, compared with the first level of the "
            "plan and all else equal: a mean over models and other factors.",
            Remark(
                "A × B is an interaction: how much more or less A changes with B.",
                {"is_interaction": True},
            ),
            "Lines are 95 % intervals, wider for all that is tested together; an effect is "
            "significant, and blue, if its interval excludes 0.",
            *axes_remarks(x),
        ),
        alt="Change of energy, time and accuracy by each level of each factor, with intervals and "
        "a dashed line at no change.",
        specification=specification(alt.layer(none, *x.interval_lines(base, table, 1.6), points)),
        table=table,
        panels=Selector("measure", "Measure", measures),
        selectors=(Selector("phase", "Phase", phases), Selector("place", "Study", places)),
        single=Single("name"),
    )


def _rows(found: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each effect, measure and quantity (net or gross) that a reader selects."""
    table = drawn_effects(found)
    is_points = table["quantity"] == ACCURACY
    for end in ("estimate", "low", "high"):
        table[end] = table[end].where(is_points, 100 * (table[end] - 1))
    table = table.assign(
        place=table["study"] + " · " + table["machine"],
        name=table["effect"],
        is_interaction=table["other"].notna(),
        value=table["estimate"],
        significant=table["shown"].fillna(value=False).astype(bool),
        measure=table["quantity"].where(~table["quantity"].isin(list(ENERGIES)), "energy"),
    )
    columns = ["place", "phase", "quantity", "measure", "effect", "name", "value", "low", "high",
               "n", "significant", "is_interaction"]  # fmt: skip
    return with_text(with_each_energy(table)[columns], "")


def drawn_effects(found: pd.DataFrame) -> pd.DataFrame:
    """Return the effects and interactions that the page shows, with their names as ``effect``.

    They are the same for all quantities and phases of a study and machine: the first effects, and
    the strongest of the interactions that are significant for a quantity.
    """
    table = found.assign(effect=[effect_name(row) for row in records(found)])
    parts = []
    for _, part in table.groupby(["study", "machine"], sort=False):
        is_main = part["other"].isna()
        shown = part[~is_main & part["shown"].fillna(value=False)].sort_values("p", kind="stable")
        names = [
            *part.loc[is_main, "effect"].unique()[:MOST_EFFECTS],
            *shown["effect"].unique()[:MOST_INTERACTIONS],
        ]
        order = part["effect"].map({name: at for at, name in enumerate(names)})
        parts.append(
            part.assign(order=order).dropna(subset="order").sort_values("order", kind="stable")
        )
    return pd.concat(parts, ignore_index=True) if parts else table


def effect_name(row: dict[str, Any]) -> str:
    """Name an effect, for example ``bf16 vs fp32``, or an interaction: ``bf16 × ResNet18``."""
    level = _level_name(row["factor"], row["level"])
    if pd.isna(row["other"]):
        return f"{level} vs {row['reference']}"
    return f"{level} × {_level_name(row['other'], row['other_level'])}"


def _level_name(factor: str, level: str) -> str:
    is_plain = factor == "model" or (level[:1].isalpha() and level not in ("True", "False"))
    return level if is_plain else level_text(factor, level)
