"""One frame: a view, as lines of text for a terminal of any width. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.text import Text

from joulelab.carbon.costs import Costs
from joulelab.energy.energy import Energy
from joulelab.runs.record import SpanTotal
from joulelab.sensors.sensor import Quantity
from joulelab.watch.model import (
    BIN_S,
    Component,
    Ended,
    Gauge,
    Study,
    View,
    total_history,
)
from joulelab.watch.words import UNKNOWN, amount, clock, meter, printable, sparkline

WIDE = 90
"""From so many columns on the highest power of a sparkline is shown too."""
WIDER = 120
"""From so many on, the source of each power."""
LEAST_WIDTH = 40
INDENT, BETWEEN = 10, " · "
MOST_STACKS, MOST_NAMES, MOST_HINTS = 6, 8, 4
_PLAIN = {"·": "|", "…": "~"}
_STATES = {"live": "bold green", "waiting": "yellow", "ended": "bold", "lost": "bold red"}
_PROVENANCE = {"measured": "green", "estimated": "yellow", "simulated": "magenta"}
_LABELS = {
    Quantity.UTILIZATION: "busy",
    Quantity.MEMORY_UTILIZATION: "memory busy",
    Quantity.SM_CLOCK: "SM",
    Quantity.MEMORY_CLOCK: "memory",
}
_HOST_LABELS = {
    Quantity.UTILIZATION: "CPU busy",
    Quantity.MEMORY_UTILIZATION: "memory in use",
}


def screen(view: View, width: int, *, plain: bool = False) -> list[Text]:
    """The lines of a frame, the most important ones first.

    Args:
        view: What to show.
        width: Of the terminal, in columns.
        plain: Use ASCII only.
    """
    width = max(width, LEAST_WIDTH)
    sections = (
        _header(view, width),
        _study(view.study, width, plain) if view.study else [],
        _power(view, width, plain),
        _energy(view, width),
        _open_spans(view, width),
        _ended_spans(view, width),
        _forecast(view, width),
        _gauges(view.gauges, width, plain),
        _further(view, width),
    )
    lines = [line for section in sections if section for line in (*section, Text())]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        if plain:
            line.plain = "".join(
                _PLAIN.get(one, one if one.isascii() else "?") for one in line.plain
            )
    return lines[:-1]


def _header(view: View, width: int) -> list[Text]:
    words = f" ({view.state_words})" if view.state_words else ""
    right = Text(f"{view.state}{words}", style=_STATES[view.state])
    if math.isfinite(view.elapsed_s):
        right.append(f"  {clock(view.elapsed_s)}", style="bold")
    left = Text(printable(view.title), style="bold")
    if view.detail:
        left.append(f"  {printable(view.detail)}", style="dim")
    room = width - right.cell_len - 2
    left.truncate(max(room, 8), overflow="ellipsis", pad=True)
    return [Text.assemble(left, "  ", right)]


def _power(view: View, width: int, plain: bool) -> list[Text]:
    """A row a component, and one for all."""
    if not view.components:
        return []
    histories = [one.history_w for one in view.components]
    name_width = max(5, *(cell_len(one.name) for one in view.components))
    columns = [name_width, 8, 0, 8, 9]
    columns += [8] if width >= WIDE else []
    columns += [max(len(one.source) for one in view.components)] if width >= WIDER else []
    columns[2] = max(width - sum(columns) - (len(columns) - 1), 1)
    rows = [_power_row(one, columns, plain) for one in view.components]
    if len(view.components) > 1:
        gross_j = view.energy.gross_j if view.energy else math.nan
        together = Component(
            name="all", power_w=view.power_w, history_w=total_history(view.components),
            gross_j=gross_j, source="", provenance="",
        )  # fmt: skip
        rows.append(_power_row(together, columns, plain, style="bold"))
    shown_s = min(columns[2], max(map(len, histories))) * BIN_S
    over = view.state in ("ended", "lost")
    heading = [
        "",
        "at end" if over else "now",
        f"last {clock(shown_s)}" if shown_s else "",
        "so far",
        "",
    ]
    heading += ["full bar"] if width >= WIDE else []
    heading += ["source"] if width >= WIDER else []
    return [_row(heading, columns, "dim"), *rows]


def _power_row(one: Component, columns: Sequence[int], plain: bool, style: str = "") -> Text:
    shown = one.history_w[-columns[2] :]
    peak_w = max((value for value in shown if math.isfinite(value)), default=math.nan)
    cells = [
        Text(one.name, style=style),
        Text(amount(one.power_w, "W"), style="bold"),
        Text(sparkline(one.history_w, columns[2], plain=plain), style="cyan"),
        Text(amount(one.gross_j, "J"), style=style),
        Text(one.provenance, style=_PROVENANCE.get(one.provenance, "")),
        Text(amount(peak_w, "W"), style="dim"),
        Text(one.source, style="dim"),
    ]
    return _row(cells, columns)


def _row(cells: Iterable[str | Text], columns: Sequence[int], style: str = "") -> Text:
    """Cells beside each other; figures (the second, fourth and sixth) to the right."""
    line = Text()
    for position, (cell, width) in enumerate(zip(cells, columns, strict=False)):
        text = Text(cell, style=style) if isinstance(cell, str) else cell
        text.truncate(width, overflow="ellipsis")
        blank = " " * (width - text.cell_len)
        line.append(" " if position else "")
        line.append_text(Text.assemble(blank, text) if position in (1, 3, 5) else text)
        line.append("" if position in (1, 3, 5) else blank)
    return line


def _energy(view: View, width: int) -> list[Text]:
    energy = view.energy
    if energy is None:
        return []
    low, high = energy.interval_j
    parts = [f"gross {amount(energy.gross_j, 'J')} ({amount(low, 'J')} to {amount(high, 'J')})"]
    if math.isfinite(energy.net_j):
        low, high = energy.net_interval_j
        parts.append(f"net {amount(energy.net_j, 'J')} ({amount(low, 'J')} to {amount(high, 'J')})")
    else:
        parts.append("net not known: no idle power measured (joulelab idle)")
    parts.append(f"over {clock(energy.duration_s)}")
    parts.append(f"mean {amount(energy.mean_power_w, 'W')}")
    lines = _flow("energy", parts, width)
    lines += _flow("", [view.job_words], width) if view.job_words else []
    return [*lines, *_costs(view.costs, width)]


def _costs(costs: Costs | None, width: int) -> list[Text]:
    if costs is None:
        return []
    unknown = [f"CO2e: {costs.no_carbon}"] if costs.no_carbon else []
    return _flow("cost", [*filter(None, costs.text().split("; ")), *unknown], width)


def _flow(label: str, parts: Sequence[str], width: int, style: str = "") -> list[Text]:
    """Parts beside each other behind a label, on as many lines as they need."""
    lines = [""]
    for part in parts:
        text = printable(part)
        if lines[-1] and cell_len(lines[-1]) + len(BETWEEN) + cell_len(text) <= width - INDENT:
            lines[-1] += BETWEEN + text
        else:
            lines += textwrap.wrap(text, width - INDENT)
    lines = lines[1:] or [""]
    labels = [Text(label.ljust(INDENT), style="dim"), *(Text(" " * INDENT) for _ in lines[1:])]
    return [Text.assemble(first, (line, style)) for first, line in zip(labels, lines, strict=True)]


def _gauges(gauges: Sequence[Gauge], width: int, plain: bool) -> list[Text]:
    lines = []
    for component in dict.fromkeys(one.component for one in gauges):
        own = [_gauge(one, width, plain) for one in gauges if one.component == component]
        lines += _flow(component, own, width)
    return lines


def _gauge(gauge: Gauge, width: int, plain: bool) -> str:
    labels = _HOST_LABELS if gauge.component == "host" else _LABELS
    label, value = labels.get(gauge.quantity, ""), gauge.value
    if not math.isfinite(value):
        text = UNKNOWN
    elif gauge.quantity in (Quantity.UTILIZATION, Quantity.MEMORY_UTILIZATION):
        text = f"{value:3.0f} %"
        if width >= WIDE:
            text = f"{meter(value / 100, 10, plain=plain)} {text}"
    elif gauge.quantity is Quantity.MEMORY_USED:
        text = f"{value / 2**30:.1f} GiB"
    elif gauge.quantity is Quantity.TEMPERATURE:
        text = f"{value:.0f} {'C' if plain else '°C'}"
    else:
        text = f"{value / 1e6:,.0f} MHz"
    return f"{label} {text}".strip()


def _open_spans(view: View, width: int) -> list[Text]:
    lines = []
    for stack in view.stacks[:MOST_STACKS]:
        path = " > ".join(f"{span.label} {clock(span.elapsed_s)}" for span in stack.spans)
        lines += _flow(f"pid {stack.pid}", [path], width)
    left = len(view.stacks) - MOST_STACKS
    return [
        *lines,
        *(_flow("", [f"and {left} more threads with spans"], width) if left > 0 else []),
    ]


def _ended_spans(view: View, width: int) -> list[Text]:
    ended = view.ended
    if not ended:
        return []
    names = {one.name for one in view.components}
    shown = sorted(ended[:MOST_NAMES], key=lambda one: -one.duration_s / one.count)
    name_width = min(max(5, *(cell_len(printable(one.name)) for one in shown)), width // 3)
    columns = [name_width, 7, 9, 9, 0]
    columns[4] = width - sum(columns) - 4
    lines = [_row(["ended", "count", "time", "energy", " last"], columns, "dim")]
    for one in shown:
        gross_j = one.energy.gross_j if one.energy and _has_all(one.energy, names) else math.nan
        cells = [
            printable(one.name), f"{one.count:,}", clock(one.duration_s), amount(gross_j, "J"),
            " " + _last(one, names, columns[4]),
        ]  # fmt: skip
        lines.append(_row(cells, columns))
    if len(ended) > len(shown):
        lines.append(Text(f"and {len(ended) - len(shown)} more names", style="dim"))
    return lines


def _has_all(energy: Energy | SpanTotal, names: set[str]) -> bool:
    """Whether no component is missing; a record's own sum says so of its job."""
    return not isinstance(energy, Energy) or names <= set(energy.components)


def _last(one: Ended, names: set[str], room: int) -> str:
    if not math.isfinite(one.last_duration_s):
        return ""
    if one.last is None or not _has_all(one.last, names):
        return clock(one.last_duration_s)
    low, high = one.last.interval_j
    text = f"{amount(one.last.gross_j, 'J')} in {clock(one.last_duration_s)}"
    longer = f"{text} ({amount(low, 'J')} to {amount(high, 'J')})"
    return longer if len(longer) < room else text


def _study(study: Study, width: int, plain: bool) -> list[Text]:
    share = study.done / study.cells if study.cells else 1.0
    bar = meter(share, min(30, width // 4), plain=plain)
    parts = [f"{bar} {study.done} of {study.cells} cells"]
    parts += [f"{study.failed} failed"] if study.failed else []
    parts += [f"so far {study.spent}"] if study.spent else []
    parts += [f"to go about {study.to_go}"] if study.to_go else []
    lines = _flow("study", parts, width)
    for line in study.last:
        lines += _flow("", [line], width, "dim")
    if study.running:
        lines += _flow("running", [study.running, f"for {clock(study.running_s)}"], width)
    return lines


def _forecast(view: View, width: int) -> list[Text]:
    return _flow("forecast", [view.forecast_words], width) if view.forecast_words else []


def _further(view: View, width: int) -> list[Text]:
    """What is missing, what happened, and what else there is."""
    lines: list[Text] = []
    for reason in dict.fromkeys(view.absent.values()):
        components = ", ".join(name for name, why in view.absent.items() if why == reason)
        lines += _flow("absent", [f"{components}: {reason}"], width)
    for note in view.notes:
        lines += _flow("note", [note], width)
    for hint in view.hints[:MOST_HINTS]:
        lines += _flow("also", [hint], width)
    return lines
