"""Charts of studies, in the order of the page, and their files."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from joulelab.findings.all import Analysis
from joulelab.findings.schema import records
from joulelab.findings.tables import csv, write_file
from joulelab.format import slug
from joulelab.report.charts import effects, limits, per_model, power, scatter, training
from joulelab.report.charts.chart import HIDDEN, Chart, NothingToDraw, Selector
from joulelab.report.charts.style import CONFIG, QUANTITIES

_MAKERS: Mapping[str, Callable[[Analysis], Chart]] = {
    "Effects of factors": effects.effects,
    "Energy of each model": per_model.energy,
    "Time of each phase": per_model.duration,
    "Phases compared": per_model.ratio,
    "Mean power by component": power.power,
    "Utilisation against power": scatter.utilization,
    "Energy against characteristics of the models": scatter.predictors,
    "Energy against time": scatter.energy_time,
    "Energy against batch size": training.batch_sizes,
    "Time and energy against power limit": limits.limits,
    "Loss, accuracy and energy by epoch": training.epochs,
    "Accuracy against energy": training.accuracy,
    "What the last epochs gained": training.last_epochs,
    "Machines compared": per_model.machines,
    "Predicted against measured energy": scatter.predictions,
    "Power during a run": power.trace,
}


def all_charts(
    analysis: Analysis, run_ids: Sequence[str] = ()
) -> tuple[list[Chart], dict[str, str]]:
    """Make every chart that the studies fill; the second result explains which they do not.

    Args:
        analysis: Studies and their tables.
        run_ids: Ids of the runs whose power is shown; default: the first ones.
    """
    makers: dict[str, Callable[[Analysis], Chart]] = {
        **_MAKERS,
        "Power during a run": partial(power.trace, run_ids=run_ids),
    }
    units = " or ".join(dict.fromkeys(analysis.tables.measurements["unit"])) or "sample"
    charts: list[Chart] = []
    missing: dict[str, str] = {}
    for title, make in makers.items():
        try:
            charts.append(_fitted(replace(make(analysis), title=title), units))
        except NothingToDraw as reason:
            missing[title] = str(reason)
    return charts, missing


def _fitted(chart: Chart, units: str) -> Chart:
    """Leave out panels and sentences that no row is about, and name the units in texts."""
    panels, levels = chart.panels, dict[str, str]()
    if panels and panels.column == "phase":
        present = set(chart.table["phase"].dropna())
        levels = {level: name for level, name in panels.levels.items() if level in present}
    return replace(
        chart,
        alt=chart.alt.replace("{unit}", units),
        caption=tuple(one for one in chart.caption if one.is_about(chart.table)),
        panels=replace(panels, levels=levels) if panels and levels else panels,
    )


@dataclass(frozen=True, slots=True)
class Drawing:
    """One view of a chart, as a file."""

    chart: str  # Name of the chart.
    name: str  # Name of its files, without ending.
    heading: str  # What it shows, for example ``"Training"``; may be empty.
    specification: Mapping[str, Any]  # Vega-Lite with data and configuration; empty for a sentence.
    sentence: str = ""  # What stands in place of a drawing of a single mark.
    images: Mapping[str, bytes] = field(default_factory=dict)  # Format to content, once rendered.

    @property
    def data_uri(self) -> str:
        """The SVG as an address that needs no network."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.images['svg']).decode()}"


def drawings(charts: Iterable[Chart], groups: pd.DataFrame) -> list[Drawing]:
    """Return the drawings of charts for these groups, those of equal content once."""
    distinct: dict[str, Drawing] = {}
    for chart, row in product(charts, records(groups)):
        place = slug(f"{row['study']} {row['machine']}").lower()
        stem = f"{place}-" if len(groups) > 1 else ""
        for one in drawings_of(chart, row["group"], row["family"], stem, row["unit"]):
            distinct.setdefault(one.sentence or json.dumps(one.specification), one)
    return list(distinct.values())


def drawings_of(
    chart: Chart, group: int, family: int, stem: str = "", unit: str = "sample"
) -> list[Drawing]:
    """Return a drawing for each panel and level of a chart, as the page shows them at first.

    They are net of idle if the chart has a net energy of this group, else gross. A level without
    rows has no drawing, and one of a single mark is a sentence. Only the first run's trace becomes
    a file.
    """
    for quantity, title in QUANTITIES.items():
        selected = {"group": group, "family": family, "quantity": quantity}
        found = list(_levels(chart, selected, {"quantity": title, "unit": unit}, stem))
        if found:
            return found
    return []


def _levels(
    chart: Chart, selected: Mapping[str, Any], names: Mapping[str, str], stem: str
) -> Iterator[Drawing]:
    selectors = [*chart.selectors, *([chart.panels] if chart.panels else [])]
    for levels in product(*(_drawn_levels(selector) for selector in selectors)):
        picked = {one.column: level for one, level in zip(selectors, levels, strict=True)}
        shown = chart.shown({**selected, **picked})
        if shown.empty:
            continue
        titles = {one.column: one.levels[picked[one.column]] for one in selectors}
        parts = [
            level
            for one, level in zip(selectors, levels, strict=True)
            if one.column == "phase" or (len(one.levels) > 1 and one.column != "run")
        ]
        sentence = chart.single.sentence(shown) if chart.single else ""
        view = {} if sentence else chart.view({**selected, **picked}, {**titles, **names})
        yield Drawing(
            chart=chart.name,
            name=re.sub(r"[ ,]+", "-", "-".join([f"{stem}{chart.name}", *parts])),
            heading=", ".join(titles.values()),
            specification=view and view | {"config": CONFIG},
            sentence=sentence,
        )


def _drawn_levels(selector: Selector) -> list[str]:
    levels = list(selector.levels)
    return levels[:1] if selector.column == "run" else levels


def write_charts(
    directory: Path, charts: Sequence[Chart], drawn: Sequence[Drawing], groups: pd.DataFrame
) -> list[Path]:
    """Write every drawing as an image, and the rows of every chart as CSV.

    In the CSV, study, machine and setting take the place of the number of the group.

    Raises:
        StoreError: A file cannot be written.
    """
    written = [
        write_file(directory / f"{one.name}.{kind}", content)
        for one in drawn
        for kind, content in one.images.items()
    ]
    for chart in charts:
        rows = chart.table
        for key, setting in (("group", "setting"), ("family", "family_setting")):
            if key in rows:
                named = groups[[key, "study", "machine", setting]].drop_duplicates(key)
                named = named.rename(columns={setting: "setting"})
                rows = named.merge(rows, on=key, how="right").drop(columns=key)
        rows = rows.drop(columns=[name for name in HIDDEN if name in rows])
        written.append(write_file(directory / f"{chart.name}.csv", csv(rows)))
    return written
