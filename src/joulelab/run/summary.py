"""One screen about a job, for people."""

from __future__ import annotations

import math
import os
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO

from joulelab.carbon.costs import Costs
from joulelab.carbon.quantities import J_PER_KWH
from joulelab.carbon.site import UNKNOWN
from joulelab.energy.energy import Energy, sensor_of
from joulelab.format import quantity, with_interval
from joulelab.run.previous import compare
from joulelab.runs.job import Job
from joulelab.runs.span_total import SpanTotal

WORTH_KWH = 0.01
"""From here on energies are given in kWh, too."""
MOST_SPANS = 8
UNSEEN = 0.01
"""Time without readings is told from this share of the duration on."""
HINT = "say once where this is, as `joulelab site --country FR --price 0.25 --currency EUR`"
NEVER_METERED = "never metered: power supply, fans, board, disks, network"
_LABEL = 10

Line = tuple[str, str]
"""A label and what there is to say."""


def summary(job: Job, costs: Costs, previous: Job | None = None) -> list[Line]:
    """What a person wants to know of a job that has just ended.

    Args:
        job: It.
        costs: Of its energy.
        previous: The last one like it.
    """
    return [
        ("joulelab", f"{_shortened(shlex.join(job.command), 60)}  {_ending(job)}"),
        *_energy(job.energy),
        *_spans(job.spans),
        *_costs(costs),
        *_compared(job, previous),
        *_warnings(job),
        ("record", str(job.directory)),
    ]


def show(lines: Sequence[Line], stream: TextIO) -> None:
    """Prints a summary: labels dim where a person is looking, plain text elsewhere."""
    looking = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    before, after = ("\x1b[2m", "\x1b[0m") if looking else ("", "")
    last = ""
    text = ""
    for label, content in lines:
        shown = "" if label == last else label
        text += f"{before}{shown:{_LABEL}}{after}{content}\n"
        last = label
    stream.write(text)
    stream.flush()


def _ending(job: Job) -> str:
    if job.signal is not None:
        how = f"ended by {_signal_name(job.signal)}"
    else:
        how = f"exit code {job.exit_code}" if job.exit_code else "done"
    return f"{how} after {duration(job.duration_s)}"


def _energy(energy: Energy) -> Iterator[Line]:
    if not energy.components:
        for reason in dict.fromkeys(energy.absent.values()):
            yield "energy", f"not measured: {reason}"
        return
    text = with_interval(energy.gross_j, *energy.interval_j, "J")
    if energy.gross_j >= WORTH_KWH * J_PER_KWH:
        text += f", {energy.gross_j / J_PER_KWH:.3g} kWh"
    yield "energy", f"{text}, {energy.mean_power_w:.3g} W on average"
    if math.isnan(energy.net_j):
        yield "", "net of idle unknown: measure the idle machine once with `joulelab idle`"
    else:
        net = with_interval(energy.net_j, *energy.net_interval_j, "J")
        yield "", f"{net} net of {quantity(energy.idle_j, 'J')} idle"
    for name, part in energy.components.items():
        half_j = (part.interval_j[1] - part.interval_j[0]) / 2
        yield (
            f"  {name}",
            f"{quantity(part.gross_j, 'J'):>10} ± {quantity(half_j, 'J'):8} "
            f"{quantity(part.mean_power_w, 'W'):>7}  "
            f"{part.provenance} ({sensor_of(part.source)})",
        )
    if energy.job_text:
        yield "this job", energy.job_text
    for name, reason in energy.absent.items():
        yield f"  {name}", f"not metered: {reason}"
    yield "", NEVER_METERED


def _spans(spans: Sequence[SpanTotal]) -> Iterator[Line]:
    largest = sorted(spans, key=lambda span: -span.duration_s)[:MOST_SPANS]
    width = max((len(span.name) for span in largest), default=0)
    for span in largest:
        known = not math.isnan(span.gross_j)
        energy = with_interval(span.gross_j, span.low_j, span.high_j, "J", level="")
        energy = energy if known else "not measured"
        yield (
            "spans",
            f"{span.name:{width}}  {span.count:6} x  {duration(span.duration_s):>9}  {energy}",
        )
    if len(spans) > MOST_SPANS:
        yield "spans", f"and {len(spans) - MOST_SPANS} more names, in the record"


def _costs(costs: Costs) -> Iterator[Line]:
    if math.isnan(costs.energy_j):
        return
    words = costs.words()
    if not words:
        unknown = f"CO2e unknown: {costs.no_carbon}"
        yield "costs", HINT if costs.no_carbon in {"", UNKNOWN} else unknown
        return
    for part in words.split("; "):
        yield "costs", part
    if costs.no_carbon:
        yield "costs", f"CO2e unknown: {costs.no_carbon}"


def _compared(job: Job, previous: Job | None) -> Iterator[Line]:
    found = compare(job, previous)
    if found is None:
        return
    times = f"{found.energy.value:.3g} times ({found.energy.low:.3g} to {found.energy.high:.3g})"
    yield (
        "last time",
        f"{times} the energy and {found.duration:.3g} times the time of that of "
        f"{_date(found.previous.started_unix_s)}",
    )
    if found.differ:
        yield "last time", f"with {', '.join(found.differ)}"


def _warnings(job: Job) -> Iterator[Line]:
    energy = job.energy
    if energy.components and energy.gap_s > UNSEEN * energy.duration_s:
        yield "note", f"{duration(energy.gap_s)} were not seen; the interval is as wide for it"
    for note in (*energy.notes, *job.notes):
        yield "note", note


def duration(value_s: float) -> str:
    """A time as people say it.

    Example:
        >>> duration(0.0123), duration(12.34), duration(125.0), duration(7325.0)
        ('12 ms', '12.3 s', '2 min 5 s', '2 h 2 min')
    """
    if value_s < 1:
        return f"{value_s * 1e3:.0f} ms"
    if value_s < 60:
        return f"{value_s:.3g} s"
    minutes, seconds = divmod(round(value_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _date(unix_s: float) -> str:
    """When, and how long ago."""
    when = datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    days = (time.time() - unix_s) / 86400
    return f"{when}, {days:.0f} days ago" if days >= 1.5 else when


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
