"""The same models on unlike machines."""

from __future__ import annotations

import altair as alt

from joulelab.report.figure import Choice, Figure, NothingToDraw
from joulelab.report.figures.marks import PHASE_PANELS, dots, tips
from joulelab.report.scopes import Material, spoken_setting
from joulelab.report.theme import SERIES_COLOURS, chart, rows_of, specification

_RATIOS = Choice(
    "of", "Ratio of", {"net": "energy net of idle", "gross": "gross energy", "time": "time"}
)


def machines(material: Material) -> Figure:
    """Each model's energy and time a sample on each machine over those on the reference."""
    table = material.answers.side_by_side.rename(columns={"quantity": "of", "ratio": "value"})
    table = table[table["value"].notna()]
    if table.empty:
        raise NothingToDraw("no model ran on two machines in the same setting")
    table = table.assign(one=1.0).sort_values(["of", "phase", "value"], ignore_index=True)
    names = sorted(table["machine"].unique())
    colour = alt.Color(
        "machine:N",
        scale=alt.Scale(domain=names, range=list(SERIES_COLOURS)),
        legend=alt.Legend(columns=2),
    )
    table = table.assign(setting=table["setting"].fillna(""))
    settings = {name: spoken_setting(name) for name in table["setting"].unique()}
    reference = table["reference"].iloc[0]
    view = dots(
        table,
        "Ratio to the reference, {of} of a sample",
        colour,
        tips(
            model="Model",
            machine="Machine",
            reference="Reference",
            setting="Setting",
            value="Ratio",
            low="95 % from",
            high="to",
        ),
        yOffset=alt.YOffset("machine:N", scale=alt.Scale(padding=0.3)),
    )
    one = chart(height=rows_of(21)).mark_rule(strokeDash=[5, 3]).encode(x="min(one):Q")
    return Figure(
        name="machines",
        title="Machines side by side",
        caption=f"The reference is {reference}. Left of the dashed line a machine needs less. "
        "Lines are 95 % intervals.",
        alt="Energy and time of each model on each machine over those on the reference.",
        chart=specification(one + view),
        table=table,
        panels=PHASE_PANELS,
        choices=(
            _RATIOS,
            Choice("setting", "Setting", {name: spoken_setting(name) for name in settings}),
        ),
    )
