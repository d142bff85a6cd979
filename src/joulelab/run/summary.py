"""Summarize a run on one screen, and compare it with the previous run of the same name."""

from __future__ import annotations

import math
import os
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from joulelab.carbon.costs import J_PER_KWH, Costs
from joulelab.carbon.site import NO_LOCATION
from joulelab.energy.energy import Energy, sensor_of
from joulelab.energy.uncertainty import find_boards, gross_energy
from joulelab.errors import JoulelabError
from joulelab.format import (
    change,
    count,
    duration,
    join_words,
    percent,
    printable,
    quantity,
    shorten,
    slug,
    timestamp,
    with_interval,
)
from joulelab.runs import name_of
from joulelab.runs.record import Run, SpanTotal, read_run, saved_run_directories
from joulelab.sensors.sensor import Absence, Provenance
from joulelab.uncertain import Ratio, ratio

LEAST_KWH = 0.01
"""Energies from here on are given in kWh, too."""
LEAST_GAP = 0.01
"""Time without readings is mentioned from this share of the duration on."""
MOST_SPANS = 8
MOST_CANDIDATES = 50
SITE_HINT = "set your location once: `joulelab site --country FR --price 0.25 --currency EUR`"
SHORT_COMMAND_S = 2.0
"""A command that ends earlier may have ended before its recorder was ready."""
NEVER_METERED = "not metered: power supply, fans, board, disks, network"
_LABEL_WIDTH = 10

Line = tuple[str, str]
"""A label and a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A run against the previous one: ratios of gross energy and duration, and differences."""

    previous: Run
    energy: Ratio
    duration: float
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "id": self.previous.id,
            "directory": str(self.previous.directory),
            "started_unix_s": self.previous.started_unix_s,
            "energy_ratio": self.energy.value,
            "energy_ratio_low": self.energy.low,
            "energy_ratio_high": self.energy.high,
            "duration_ratio": self.duration,
            "differ": list(self.differences),
        }


def previous_run(run: Run) -> Run | None:
    """Find the newest finished run of the same command, name and project.

    It is searched for among the saved runs and next to this one. If the user chose the name, a run
    of that name with other arguments will do.
    """
    is_named = bool(run.command) and run.name != name_of(run.command)
    namesake: Run | None = None
    found = {}
    saved = saved_run_directories()
    for folder in dict.fromkeys((*saved, run.directory.parent)):
        # Only saved runs have their name in that of their directory.
        part = f"-{slug(run.name)}-" if folder in saved else ""
        for path in folder.iterdir() if folder.is_dir() else ():
            if path != run.directory and path.is_dir() and part in slug(path.name):
                found[path] = path.stat().st_mtime
    for path in sorted(found, key=lambda one: found[one], reverse=True)[:MOST_CANDIDATES]:
        try:
            other = read_run(path)
        except JoulelabError:
            continue
        is_same = (other.kind, other.name, other.project) == (run.kind, run.name, run.project)
        if is_same and other.finished and not math.isnan(other.energy.gross_j):
            if other.command == run.command:
                return other
            namesake = namesake or other
    return namesake if is_named else None


def compare(run: Run, previous: Run | None) -> Comparison | None:
    """Compare a run with the previous one; ``None`` unless the same sensors read the same parts."""
    if previous is None or _sensors(run.energy) != _sensors(previous.energy):
        return None
    values = [
        gross_energy(r.energy, find_boards(r.machine, r.host, r.energy)) for r in (run, previous)
    ]
    found = ratio(*values)
    if found is None:
        return None
    is_same = {
        "arguments": run.command == previous.command,
        "machine or software": run.machine is not None and run.machine == previous.machine,
        "exit": (run.exit_code, run.signal) == (previous.exit_code, previous.signal),
    }
    return Comparison(
        previous=previous,
        energy=found,
        duration=run.duration_s / previous.duration_s,
        differences=tuple(what for what, same in is_same.items() if not same),
    )


def summarize(
    run: Run,
    costs: Costs,
    comparison: Comparison | None = None,
    absent: Sequence[Absence] = (),
) -> list[Line]:
    """Return what a user wants to know of a command that has just ended.

    Sources that were ``absent`` say why a component was estimated.
    """
    return [
        ("joulelab", f"{shorten(shlex.join(run.command), 60)}  {_ending(run)}"),
        *_energy_lines(run, absent),
        *_span_lines(run.spans),
        *_cost_lines(costs),
        *_comparison_lines(comparison),
        *_notes(run),
        ("record", str(run.directory)),
    ]


def show(lines: Sequence[Line], stream: TextIO) -> None:
    """Print a summary, with dim labels on a terminal."""
    is_plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    before, after = ("\x1b[2m", "\x1b[0m") if stream.isatty() and not is_plain else ("", "")
    last = ""
    text = ""
    for label, content in lines:
        shown = "" if label == last else label
        text += f"{before}{shown:{_LABEL_WIDTH}}{after}{printable(content)}\n"
        last = label
    stream.write(text)
    stream.flush()


def _ending(run: Run) -> str:
    how = f"exit code {run.exit_code}" if run.exit_code else "done"
    if run.signal is not None:
        names = {int(one): one.name for one in signal.Signals}
        how = f"ended by {names.get(run.signal, f'signal {run.signal}')}"
    return f"{how} after {duration(run.duration_s)}"


def _energy_lines(run: Run, absent: Sequence[Absence]) -> Iterator[Line]:
    energy = run.energy
    if not energy.components:
        # A component with a number was found.
        if run.duration_s < SHORT_COMMAND_S and any(":" in name for name in energy.absent):
            yield "energy", "not measured: the command ended before its sensors were read"
            yield "", "measure a short command with `joulelab run --wait`"
            return
        for reason in dict.fromkeys(energy.absent.values()):
            yield "energy", f"not measured: {reason}"
        return
    text = with_interval(energy.gross_j, *energy.interval_j, "J")
    if energy.gross_j >= LEAST_KWH * J_PER_KWH:
        text += f", {quantity(energy.gross_j / J_PER_KWH, 'kWh')}"
    yield "energy", f"{text}, {quantity(energy.mean_power_w, 'W')} on average"
    if math.isnan(energy.net_j):
        yield "", "net of idle unknown: measure the idle machine once with `joulelab idle`"
    else:
        net = with_interval(energy.net_j, *energy.net_interval_j, "J")
        yield "", f"{net} net of {quantity(energy.idle_j, 'J')} idle"
    for name, part in energy.components.items():
        half_j = (part.interval_j[1] - part.interval_j[0]) / 2
        yield (
            f"  {name}",
            f"{quantity(part.gross_j, 'J'):>9} ± {quantity(half_j, 'J'):8} "
            f"{quantity(part.mean_power_w, 'W'):>8}  {part.provenance} ({sensor_of(part.source)})",
        )
    yield from _estimated_because(energy, absent)
    if energy.job_text:
        yield "share", energy.job_text
    for name, reason in energy.absent.items():
        yield f"  {name}", f"not metered: {reason}"
    yield "", NEVER_METERED


def _estimated_because(energy: Energy, absent: Sequence[Absence]) -> Iterator[Line]:
    """Say which source would have measured what was estimated, and why it is missing."""
    estimated: dict[str, list[str]] = {}
    for name, part in energy.components.items():
        if part.provenance is Provenance.ESTIMATED:
            reasons = [str(a) for a in absent if a.component in (name, name.partition(":")[0])]
            for reason in reasons[:1]:
                estimated.setdefault(reason, []).append(name)
    for reason, names in estimated.items():
        verb = "is" if len(names) == 1 else "are"
        yield "", f"{join_words(names)} {verb} estimated: {reason}"


def _span_lines(spans: Sequence[SpanTotal]) -> Iterator[Line]:
    longest = sorted(spans, key=lambda span: -span.duration_s)[:MOST_SPANS]
    width = max((len(span.name) for span in longest), default=0)
    for span in longest:
        energy = "not measured"
        if not math.isnan(span.gross_j):
            energy = with_interval(span.gross_j, span.low_j, span.high_j, "J")
        total = f"{span.count:6,} x, {duration(span.duration_s):>9} in total"
        yield "spans", f"{span.name:{width}}  {total}  {energy}"
    if len(spans) > MOST_SPANS:
        yield "spans", f"and {count(len(spans) - MOST_SPANS, 'more name')}, in the record"


def _cost_lines(costs: Costs) -> Iterator[Line]:
    if math.isnan(costs.energy_j):
        return
    known = costs.text()
    if not known and costs.no_carbon in {"", NO_LOCATION}:
        yield "costs", SITE_HINT
        return
    for part in known.split("; ") if known else ():
        yield "costs", part
    if costs.no_carbon:
        yield "costs", f"CO2e unknown: {costs.no_carbon}"


def _comparison_lines(found: Comparison | None) -> Iterator[Line]:
    if found is None:
        return
    energy = change(found.energy.value, found.energy.low, found.energy.high)
    days = (time.time() - found.previous.started_unix_s) / 86400
    ago = f", {days:.0f} days ago" if days >= 1.5 else ""
    yield (
        "last time",
        f"{energy} energy and {percent(found.duration - 1, signed=True)} time, against the run of "
        f"{timestamp(found.previous.started_unix_s)}{ago}",
    )
    if found.differences:
        yield "last time", f"with other {', '.join(found.differences)}"


def _notes(run: Run) -> Iterator[Line]:
    gap_s = run.energy.gap_s
    if run.energy.components and gap_s > LEAST_GAP * run.duration_s:
        yield "note", f"no readings for {duration(gap_s)} (included in the interval)"
    for note in (*run.energy.caveats, *run.notes):
        yield "note", note


def _sensors(energy: Energy) -> dict[str, str]:
    return {name: sensor_of(part.source) for name, part in energy.components.items()}
