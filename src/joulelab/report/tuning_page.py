"""Page of a search for better settings: what it chose, and energy against time as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import pandas as pd
from markupsafe import Markup

from joulelab.findings.tables import write_file
from joulelab.format import count, interval, number, percent, scale, sentence, time_scale
from joulelab.report.charts.axes import Axis
from joulelab.report.charts.chart import LABEL, filled
from joulelab.report.charts.point_labels import name_layers, with_labels
from joulelab.report.charts.style import INK, QUIET, SERIES_COLOURS, chart, specification
from joulelab.report.page_template import fill_template
from joulelab.report.svg_figure import draw_svg
from joulelab.sensors.sensor import Provenance
from joulelab.tune.knobs import knob_title, level_text, settings_text
from joulelab.tune.probes import Settings
from joulelab.tune.text import headline
from joulelab.tune.tuning import Outcome, mean_probe

PAGE = "index.html"
FIGURE = "front"
_ACCENT, _CHOICE = SERIES_COLOURS[0], SERIES_COLOURS[2]
_WIDTH_PX, _HEIGHT_PX = 640, 340
_MARKS = {"baseline": "Baseline", "choice": "Choice", "front": "Front", "other": "Other settings"}


def write_tuning_page(
    directory: Path,
    outcome: Outcome,
    *,
    title: str,
    max_slowdown: float,
    apply: Sequence[str] = (),
) -> Path:
    """Write the page and its figure, and return the page.

    Raises:
        StoreError: A file cannot be written.
    """
    settings = _measured_settings(outcome)
    scales = _scales(settings)
    figure = _figure(outcome, settings, scales, max_slowdown)
    page = fill_template(
        "tuning.html.j2",
        title=title,
        simulated=any(one.energy.provenance == Provenance.SIMULATED for one in outcome.measured),
        headline=headline(outcome.result),
        facts=_facts(outcome),
        figure=figure,
        alt=_alt(outcome, settings),
        knobs=[knob_title(name) for name in outcome.result.baseline],
        unit=outcome.unit,
        units=[name for _, name in scales],
        rows=[_row(one, settings[0], scales) for one in settings],
        max_slowdown=percent(max_slowdown),
        apply=apply,
        ended_early=outcome.ended_early,
        left_out=[sentence(str(one)) for one in outcome.left_out],
        notes=[sentence(one) for one in (*outcome.notes, outcome.cost_text())],
    )  # fmt: skip
    write_file(directory / f"{FIGURE}.svg", figure.encode())
    return write_file(directory / PAGE, page.encode())


class _Measured(NamedTuple):
    """Settings that were measured: (value, low, high) of time and energy; low may be the value."""

    settings: Settings
    mark: str
    is_on_front: bool
    probes: int
    duration_s: tuple[float, float, float]
    energy_j: tuple[float, float, float]

    @property
    def label(self) -> str:
        return ", ".join(level_text(name, level) for name, level in self.settings.items())


def _measured_settings(outcome: Outcome) -> list[_Measured]:
    """Return the baseline, the choice and the others by their time."""
    result = outcome.result
    probes = sorted((one.probe for one in outcome.measured), key=_key)
    front = {_names(one.settings): one for one in result.front}
    found = []
    for _, group in groupby(probes, key=_key):
        same = list(group)
        mean = mean_probe(same)
        point = front.get(_names(mean.settings))
        time, energy = (mean.duration_s,) * 3, (mean.energy_j,) * 3
        if point is not None:
            t, e = point.duration_s, point.energy_j
            time, energy = (t.value, t.low, t.high), (e.value, e.low, e.high)
        is_base = mean.settings == result.baseline
        is_choice = mean.settings == result.settings
        mark = "baseline" if is_base else "choice" if is_choice else "front" if point else "other"
        found.append(_Measured(mean.settings, mark, point is not None, len(same), time, energy))
    order = list(_MARKS)
    return sorted(found, key=lambda one: (min(order.index(one.mark), 2), one.duration_s))


def _names(settings: Settings) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(level)) for name, level in settings.items()))


def _key(probe: Any) -> tuple[tuple[str, str], ...]:
    return _names(probe.settings)


def _scales(settings: Sequence[_Measured]) -> tuple[tuple[float, str], tuple[float, str]]:
    slowest = max(one.duration_s[0] for one in settings)
    largest = max(one.energy_j[0] for one in settings)
    return time_scale(slowest), scale(largest, "J")


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    result = outcome.result
    measured = count(len(_measured_settings(outcome)), "setting")
    facts = [("Probes", f"{result.probes} at {measured}")]
    if outcome.is_better:
        facts = [
            ("Energy saved", percent(result.saving.value)),
            ("Change of time", percent(result.slowdown.value, signed=True)),
            *facts,
            ("Pays back after", f"{number(outcome.pays_back_after)} {outcome.unit}s"),
        ]
    return facts


def _row(
    one: _Measured, baseline: _Measured, scales: Sequence[tuple[float, str]]
) -> Mapping[str, Any]:
    cells = []
    for values, base, (size, _) in zip(one[4:], baseline[4:], scales, strict=True):
        value, low, high = (value / size for value in values)
        ends = interval(low, high, value) if low < high else ""
        relative = percent(values[0] / base[0] - 1, signed=True) if one is not baseline else ""
        cells += [(number(value), ends), (relative, "")]
    return {
        "settings": settings_text(one.settings),
        "mark": _MARKS[one.mark] if one.mark in ("baseline", "choice") else "",
        "probes": one.probes,
        "cells": cells,
    }


def _alt(outcome: Outcome, settings: Sequence[_Measured]) -> str:
    return (
        f"Energy against time per {outcome.unit} at {count(len(settings), 'setting')}; "
        f"{headline(outcome.result)}"
    )


def _figure(
    outcome: Outcome,
    settings: Sequence[_Measured],
    scales: Sequence[tuple[float, str]],
    max_slowdown: float,
) -> Markup:
    """Draw every probe, the settings with their intervals, the front and the accepted time."""
    (second, time_unit), (joule, energy_unit) = scales
    rows = [
        {
            "mark": one.mark,
            "model": one.label,
            "is_on_front": one.is_on_front,
            **_ends("x", one.duration_s, second),
            **_ends("y", one.energy_j, joule),
        }
        for one in settings
    ]
    across, upright = (
        Axis(name, name, f"{what} per {outcome.unit} ({unit})", f"{name}_low", f"{name}_high",
             is_logarithmic=False)
        for name, what, unit in (("x", "Time", time_unit), ("y", "Energy", energy_unit))
    )  # fmt: skip
    probes = [
        {"mark": "probe", "x": one.probe.duration_s / second, "y": one.probe.energy_j / joule}
        for one in outcome.measured
    ]
    limit = {"mark": "limit", "x": (1 + max_slowdown) * settings[0].duration_s[0] / second}
    table, x = across.framed(pd.DataFrame([*rows, *probes, limit]).assign(group=0), ["group"])
    table, y = upright.framed(table, ["group"])
    named = with_labels(table[table["model"].notna()], (x, y), ["group"], height_px=_HEIGHT_PX)
    table = table.join(named[LABEL])
    at = {"x": x.encoded(table), "y": y.encoded(table)}
    base = chart(height=_HEIGHT_PX).properties(width=_WIDTH_PX)
    of = partial(_of, base)
    on_front = of("front", "choice", "baseline")
    styles: Mapping[str, Mapping[str, Any]] = {
        "other": {"color": QUIET, "size": 50},
        "front": {"color": _ACCENT, "size": 50, "filled": True},
        "baseline": {"color": INK, "size": 85, "filled": True, "shape": "diamond"},
        "choice": {"color": _CHOICE, "size": 95, "filled": True},
    }
    points = {
        mark: of(mark).mark_point(opacity=1, **style).encode(**at) for mark, style in styles.items()
    }
    # The page shows what has this name in its own ink, which is light on dark pages.
    points["baseline"] = points["baseline"].properties(name="ink_baseline")
    leads, names = name_layers(base.encode(**at))
    layers = [
        of("limit").mark_rule(color=QUIET, strokeDash=[5, 3]).encode(x=at["x"]),
        of("probe").mark_point(filled=True, color=QUIET, opacity=0.4, size=14).encode(**at),
        on_front.mark_line(color=_ACCENT, strokeWidth=1, opacity=0.5)
        .transform_filter("datum.is_on_front").encode(**at, order="x:Q"),
        *y.interval_lines(on_front.encode(x=at["x"], color=alt.value(QUIET)), table, 1),
        *x.interval_lines(on_front.encode(y=at["y"], color=alt.value(QUIET)), table, 1),
        leads,
        *points.values(),
        names,
    ]  # fmt: skip
    view = filled(specification(alt.layer(*layers)), {}, table)
    return draw_svg(view, table)


def _ends(axis: str, values: Sequence[float], size: float) -> dict[str, float]:
    names = (axis, f"{axis}_low", f"{axis}_high")
    return dict(zip(names, (value / size for value in values), strict=True))


def _of(base: alt.Chart, *marks: str) -> alt.Chart:
    return base.transform_filter(alt.FieldOneOfPredicate("mark", list(marks)))
