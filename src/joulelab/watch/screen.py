"""Show a view in a terminal of any width, with Rich, or in one plain line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from joulelab.energy.energy import Energy
from joulelab.format import count, duration, printable, quantity, with_interval
from joulelab.layout import wrap
from joulelab.sensors.sensor import Quantity
from joulelab.watch.view import BIN_S, Component, Ended, Gauge, Study, View, total_history

WIDE = 90
"""From this width on, there are bars, intervals of single spans and the scale of the history."""
WIDER = 120
"""From this width on, there is the source of each power."""
LEAST_WIDTH = 40
LABEL_WIDTH = 9
MOST_STACKS, MOST_NAMES, MOST_HINTS = 6, 8, 4
BARS, GAP = "▁▂▃▄▅▆▇█", "·"
ASCII_BARS, ASCII_GAP = ".:-=+*#@", "?"

_ASCII = str.maketrans({"·": "|", "…": "~", "–": "-", "µ": "u", "°": ""})
_STATES = {"live": "bold green", "waiting": "yellow", "ended": "bold", "lost": "bold red"}
_PROVENANCE = {"measured": "green", "estimated": "yellow", "simulated": "magenta"}
_GAUGES = {
    Quantity.UTILIZATION: ("busy", 1.0, 0, "%"),
    Quantity.MEMORY_UTILIZATION: ("memory busy", 1.0, 0, "%"),
    Quantity.MEMORY_USED: ("", 2**30, 1, "GiB"),
    Quantity.TEMPERATURE: ("", 1.0, 0, "°C"),
    Quantity.SM_CLOCK: ("SM", 1e6, 0, "MHz"),
    Quantity.MEMORY_CLOCK: ("memory", 1e6, 0, "MHz"),
}
"""Label, scale, decimals and unit."""
_HOST_LABELS = {"busy": "CPU busy", "memory busy": "memory in use"}


def line(view: View) -> str:
    """Format a view as one plain line, for logs and pipes.

    Example:
        >>> line(View(title="train.py", state="waiting", state_words="no reading yet"))
        'train.py: waiting (no reading yet)'
    """
    parts = [_state(view)]
    if math.isfinite(view.elapsed_s):
        parts.append(duration(view.elapsed_s))
    if view.study is not None:
        parts.append(f"{view.study.done} of {view.study.cells} cells, so far {view.study.spent}")
    if view.components:
        each = [
            (one.is_added, f"{one.name} {quantity(one.power_w, 'W')}") for one in view.components
        ]
        added, others = (
            [text for is_added, text in each if is_added is one] for one in (True, False)
        )
        parts.append(f"{quantity(view.power_w, 'W')} ({', '.join(added)})")
        parts += [f"not added: {', '.join(others)}"] if others else []
    if view.energy is not None:
        parts.append(_energy_text(view.energy))
    parts += [" > ".join(span.label for span in stack.spans) for stack in view.stacks]
    return _line(f"{view.title}: {'; '.join(parts)}")


class Frame:
    """One frame, in ASCII if the terminal has no Unicode; with a footer it fills the terminal."""

    def __init__(self, view: View, footer: str = "") -> None:
        self._view, self._footer = view, footer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Render the most important lines that the terminal has room for."""
        width = max(options.max_width, LEAST_WIDTH)
        body = options.update(width=width, height=None)
        lines = console.render_lines(_sections(self._view, width), body, pad=False)
        if self._footer:
            room = max((options.height or console.height) - 2, 1)
            hidden, footer = len(lines) - room, self._footer
            if hidden > 0:
                footer += f" - {hidden} more lines need a higher terminal"
            lines = lines[:room] + [[] for _ in range(1 - min(hidden, 0))]
            lines += console.render_lines(Text(footer, style="dim"), body, pad=False)
        for segments in lines:
            for text, style, control in segments:
                ascii_text = text.translate(_ASCII).encode("ascii", "replace").decode()
                yield Segment(ascii_text if options.ascii_only else text, style, control)
            yield Segment.line()


class Sparkline:
    """Values as bars from zero to their maximum, oldest first; NaN is shown as a dot."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def __rich_measure__(self, _: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Render as many of the latest values as there is room for."""
        bars, gap = (ASCII_BARS, ASCII_GAP) if options.ascii_only else (BARS, GAP)
        scale = len(bars) / (peak(self._values) or 1.0)
        text = "".join(
            bars[min(max(math.ceil(value * scale), 1), len(bars)) - 1]
            if math.isfinite(value)
            else gap
            for value in self._values[-options.max_width :]
        )
        yield Text(text.rjust(options.max_width), style="cyan")


def peak(values: Iterable[float]) -> float:
    """Return the largest known value; NaN without one."""
    return max((value for value in values if math.isfinite(value)), default=math.nan)


def _line(text: str) -> str:
    """Put a text on one line, without characters that move the cursor or change colours."""
    return printable(" ".join(text.split()))


def _sections(view: View, width: int) -> RenderableType:
    sections = [
        _header(view),
        _study(view.study, width) if view.study else None,
        _power(view, width),
        _energy(view),
        _open_spans(view),
        _ended_spans(view, width),
        _forecast(view.forecast_words, width) if view.forecast_words else None,
        _gauges(view.gauges, width),
        _remarks(view),
    ]
    shown = [section for section in sections if section is not None]
    return Group(shown[0], *(part for section in shown[1:] for part in ("", section)))


def _forecast(text: str, width: int) -> Table:
    return _labelled([("forecast", Text(wrap(_line(text), width - LABEL_WIDTH - 1)))])


def _header(view: View) -> Table:
    right = Text(_state(view), style=_STATES[view.state])
    if math.isfinite(view.elapsed_s):
        right.append(f"  {duration(view.elapsed_s)}", style="bold")
    left = Text(_line(view.title), style="bold")
    if view.detail:
        left.append(f"  {_line(view.detail)}", style="not bold dim")
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=8)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid


def _state(view: View) -> str:
    return f"{view.state} ({view.state_words})" if view.state_words else view.state


def _power(view: View, width: int) -> Table | None:
    """Lay out a row for each component, and one for all."""
    if not view.components:
        return None
    rows = [one for one in view.components if one.is_added]
    if len(rows) > 1:
        total = Component(
            name="all", power_w=view.power_w, history_w=total_history(rows),
            gross_j=view.energy.gross_j if view.energy else math.nan, source="", provenance="",
        )  # fmt: skip
        rows.append(total)
    rows += [one for one in view.components if not one.is_added]
    length_s = max(len(one.history_w) for one in rows) * BIN_S
    table = _table()
    table.add_column("", min_width=5)
    table.add_column("at end" if view.is_over else "now", justify="right", min_width=8)
    table.add_column(f"last {duration(length_s)}" if length_s else "", ratio=1)
    table.add_column("so far", justify="right", min_width=8)
    table.add_column("", min_width=9)
    if width >= WIDE:
        table.add_column("full bar", justify="right", min_width=8)
    if width >= WIDER:
        table.add_column("source")
    for one in rows:
        cells: list[RenderableType] = [
            Text(one.name),
            Text(quantity(one.power_w, "W"), style="bold"),
            Sparkline(one.history_w),
            Text(quantity(one.gross_j, "J")),
            Text(
                one.provenance if one.is_added else "not added",
                style=_PROVENANCE.get(one.provenance, ""),
            ),
            Text(quantity(peak(one.history_w), "W"), style="dim"),
            Text(one.source, style="dim"),
        ]
        table.add_row(*cells[: len(table.columns)], style="" if one.provenance else "bold")
    return table


def _energy(view: View) -> Table | None:
    energy, costs = view.energy, view.costs
    if energy is None:
        return None
    net = "net unknown: no idle power measured (joulelab idle)"
    if math.isfinite(energy.net_j):
        net = f"net {with_interval(energy.net_j, *energy.net_interval_j, 'J')}"
    mean = f"mean {quantity(energy.mean_power_w, 'W')} over {duration(energy.duration_s)}"
    rows = [("energy", f"gross {_energy_text(energy)} · {net} · {mean}")]
    if view.job_words:
        rows.append(("", view.job_words))
    if costs is not None:
        unknown = f"CO2e: {costs.no_carbon}" if costs.no_carbon else ""
        rows.append(("cost", " · ".join(filter(None, [*costs.text().split("; "), unknown]))))
    return _labelled(rows)


def _energy_text(energy: Energy) -> str:
    return with_interval(energy.gross_j, *energy.interval_j, "J")


def _open_spans(view: View) -> Table | None:
    rows = []
    for stack in view.stacks[:MOST_STACKS]:
        spans = (f"{span.label} {duration(span.elapsed_s)}" for span in stack.spans)
        rows.append((f"pid {stack.pid}", " > ".join(spans)))
    hidden = len(view.stacks) - MOST_STACKS
    if hidden > 0:
        rows.append(("", f"and {count(hidden, 'more thread')} with spans"))
    return _labelled(rows) if rows else None


def _ended_spans(view: View, width: int) -> RenderableType | None:
    if not view.ended:
        return None
    names = {one.name for one in view.components if one.is_added}
    shown = sorted(view.ended[:MOST_NAMES], key=lambda one: -one.duration_s / one.count)
    table = _table()
    table.add_column("ended", min_width=5, max_width=width // 3)
    for heading in ("count", "time", "energy"):
        table.add_column(heading, justify="right", min_width=8)
    table.add_column("last", ratio=1)
    for one in shown:
        gross_j = one.energy.gross_j if one.energy else None
        if isinstance(one.energy, Energy) and not names <= set(one.energy.components):
            gross_j = None
        texts = [f"{one.count:,}", duration(one.duration_s), quantity(gross_j, "J")]
        table.add_row(Text(_line(one.name)), *texts, _last(one, names, width))
    hidden = len(view.ended) - len(shown)
    more = Text(f"and {count(hidden, 'more name')}", style="dim")
    return Group(table, more) if hidden else table


def _last(one: Ended, names: set[str], width: int) -> str:
    time = duration(one.last_duration_s) if math.isfinite(one.last_duration_s) else ""
    if one.last is None or not time or not names <= set(one.last.components):
        return time
    low_j, high_j = one.last.interval_j if width >= WIDE else (None, None)
    return f"{with_interval(one.last.gross_j, low_j, high_j, 'J', level='')} in {time}"


def _study(study: Study, width: int) -> Table:
    parts = [f"{study.done} of {study.cells} cells"]
    parts += [f"{study.failed} failed"] if study.failed else []
    parts += [f"so far {study.spent}"] if study.spent else []
    parts += [f"to go about {study.to_go}"] if study.to_go else []
    bar = ProgressBar(max(study.cells, 1), study.done, width=min(30, width // 4))
    rows: list[tuple[RenderableType, ...]] = [("study", bar), ("", " · ".join(parts))]
    rows += [("", Text(_line(one), style="dim")) for one in study.last]
    if study.running:
        rows.append(("running", f"{study.running} · for {duration(study.running_s)}"))
    return _labelled(rows)


def _gauges(gauges: Sequence[Gauge], width: int) -> Table | None:
    rows = []
    for component in dict.fromkeys(one.component for one in gauges):
        own = [one for one in gauges if one.component == component]
        text = Text(" · ".join(map(_gauge, own)))
        busy = (one.value for one in own if one.quantity is Quantity.UTILIZATION)
        bar = ProgressBar(completed=next(filter(math.isfinite, busy), 0.0), width=10)
        rows.append((component, bar, text) if width >= WIDE else (component, text))
    return _labelled(rows) if rows else None


def _gauge(gauge: Gauge) -> str:
    label, scale, decimals, unit = _GAUGES[gauge.quantity]
    if gauge.component == "host":
        label = _HOST_LABELS.get(label, label)
    known = math.isfinite(gauge.value)
    return f"{label} {gauge.value / scale:,.{decimals}f} {unit}".strip() if known else f"{label} –"


def _remarks(view: View) -> Table | None:
    """Lay out what is missing, what happened, and what else can be watched."""
    rows = []
    for reason in dict.fromkeys(view.absent.values()):
        components = ", ".join(name for name, why in view.absent.items() if why == reason)
        rows.append(("absent", f"{components}: {reason}"))
    rows += [("note", note) for note in view.notes]
    rows += [("also", hint) for hint in view.hints[:MOST_HINTS]]
    return _labelled(rows) if rows else None


def _labelled(rows: Sequence[Sequence[RenderableType]]) -> Table:
    """Lay out texts next to their labels, on as many lines as they need."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", min_width=LABEL_WIDTH, no_wrap=True)
    for label, *cells in rows:
        grid.add_row(label, *(Text(_line(x)) if isinstance(x, str) else x for x in cells))
    return grid


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", expand=True)
