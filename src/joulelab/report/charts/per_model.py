"""Charts of one row per model: energy, time, and ratios between phases and machines."""

from __future__ import annotations

import altair as alt
import pandas as pd

from joulelab.findings import schema
from joulelab.findings.all import Analysis
from joulelab.findings.schema import PHASE_PAIRS, READABLE
from joulelab.report.charts.chart import Chart, NothingToDraw, Selector
from joulelab.report.charts.style import (
    FOR_UNITS,
    PER,
    PHASE_PANELS,
    PHASES,
    QUANTITIES,
    SERIES_COLOURS,
    dashed_line,
    dots,
    extremes,
    interval_rows,
    interval_tips,
    phase_colour,
    specification,
    tips,
    with_drawn_ends,
)

_RATIOS = {"time": "time", "net": "energy net of idle", "gross": "gross energy"}


def energy(analysis: Analysis) -> Chart:
    """Chart energy for 1,000 samples or tokens, net of idle and gross, with 95 % intervals."""
    measured = analysis.tables.measurements
    parts = {name: interval_rows(measured, f"{name}_j_per_unit", PER) for name in QUANTITIES}
    table = pd.concat(
        [part.assign(quantity=name) for name, part in parts.items()], ignore_index=True
    )
    if table.empty:
        raise NothingToDraw("no run has a measured or estimated energy")
    table = with_drawn_ends(table)
    table = table.sort_values(["group", "quantity", "phase", "value"], kind="stable")
    view = dots(
        table,
        f"{{quantity}} {FOR_UNITS} (J)",
        phase_colour(),
        tips(model="Model", **_tips("J")),
    )
    return Chart(
        name="energy",
        caption="The most efficient model is at the top. Points are means over repeats, lines are "
        "95 % intervals.",
        alt=f"Energy {FOR_UNITS} of each model in each phase, with intervals. "
        f"{extremes(table, 'uses the least', 'the most')}",
        specification=specification(view),
        table=table,
        panels=PHASE_PANELS,
    )


def duration(analysis: Analysis) -> Chart:
    """Chart time for 1,000 samples or tokens in each phase (Fig. 2 of the paper)."""
    table = interval_rows(analysis.tables.measurements, "duration_s_per_unit", PER)
    if table.empty:
        raise NothingToDraw("no run has a known duration")
    rank = table["phase"].map(list(PHASES).index)
    table = table.assign(rank=rank).sort_values(["group", "rank", "value"], kind="stable")
    table = with_drawn_ends(table.drop(columns="rank"))
    view = dots(
        table,
        f"Time {FOR_UNITS} (s)",
        phase_colour(set(table["phase"])),
        tips(model="Model", phase="Phase", **_tips("s")),
        yOffset=alt.YOffset("phase:N", sort=list(PHASES), scale=alt.Scale(padding=0.4)),
    )
    return Chart(
        name="duration",
        caption="Points are means over repeats, lines are 95 % intervals of their variation.",
        alt=f"Time {FOR_UNITS} of each model in each phase. "
        f"{extremes(table, 'takes the least', 'the most')}",
        specification=specification(view),
        table=table,
    )


def ratio(analysis: Analysis) -> Chart:
    """Chart one phase over another for each model, with the rule of thumb if there is one."""
    table = analysis.phase_ratios.drop(columns=list(READABLE))
    table = table.rename(columns={"estimate": "value", "quantity": "of"})
    if table.empty:
        raise NothingToDraw("no model has two phases that are compared, as training and inference")
    table = with_drawn_ends(table.assign(pair=table["first"] + "-" + table["second"]))
    table = table.drop(columns=["first", "second"])
    table = table.sort_values(["group", "pair", "of", "value"], kind="stable")
    pairs = {
        f"{pair.first}-{pair.second}": f"{PHASES[pair.first]} over {schema.PHASES[pair.second]}"
        for pair in PHASE_PAIRS
    }
    present = {pair: name for pair, name in pairs.items() if (table["pair"] == pair).any()}
    view = dots(
        table,
        "{pair}, {of} per {unit}",
        SERIES_COLOURS[2],
        tips(model="Model", value="Ratio", low="95 % from", high="to", n="Repeats"),
        views=["pair"],
    )
    return Chart(
        name="ratio",
        caption="The dashed line is the rule of thumb that training takes 3 times as long as "
        "inference or prefill; of decoding over prefill, it is where both are equal. Lines are "
        "95 % intervals.",
        alt="Ratio of one phase to another for each model, with intervals and a dashed line at "
        "the rule of thumb.",
        specification=specification(dashed_line("rule") + view),
        table=table,
        selectors=(Selector("of", "Ratio of", _RATIOS), Selector("pair", "Phases", present)),
    )


def machines(analysis: Analysis) -> Chart:
    """Chart each model's energy and time per unit on each machine over the reference."""
    table = analysis.side_by_side.rename(columns={"quantity": "of", "ratio": "value"})
    table = table[table["value"].notna()]
    if table.empty:
        raise NothingToDraw("no model ran on two machines with the same settings")
    table = with_drawn_ends(table.drop(columns="unit").assign(one=1.0))
    table = table.sort_values(["of", "phase", "value"], ignore_index=True)
    names = sorted(table["machine"].unique())
    view = dots(
        table,
        "Ratio to the reference, {of} per {unit}",
        alt.Color(
            "machine:N",
            scale=alt.Scale(domain=names, range=list(SERIES_COLOURS)),
            legend=alt.Legend(columns=2),
        ),
        tips(model="Model", machine="Machine", reference="Reference", setting="Setting",
             value="Ratio", low="95 % from", high="to"),
        yOffset=alt.YOffset("machine:N", scale=alt.Scale(padding=0.3)),
    )  # fmt: skip
    ratios = {name: _RATIOS[name] for name in ("net", "gross", "time")}
    settings = {name: name for name in table["setting"].unique()}
    return Chart(
        name="machines",
        caption=f"The reference is {table['reference'].iloc[0]}. Left of the dashed line, a "
        "machine needs less. Lines are 95 % intervals.",
        alt="Energy and time of each model on each machine over those on the reference.",
        specification=specification(dashed_line("one") + view),
        table=table,
        panels=PHASE_PANELS,
        selectors=(Selector("of", "Ratio of", ratios), Selector("setting", "Setting", settings)),
    )


def _tips(unit: str) -> dict[str, str]:
    return {"value": f"Mean ({unit})", **interval_tips(unit), "n": "Repeats"}
