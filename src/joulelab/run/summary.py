"""Summarize a run on one screen, and compare it with the previous run of the same command."""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import NO_LOCATION, local_costs, local_network_energy
from joulelab.energy.energy import ComponentEnergy, Energy, sensor_of
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.uncertainty import find_boards, gross_energy
from joulelab.errors import JoulelabError
from joulelab.forecast.sources import EPOCH
from joulelab.format import (
    change,
    count,
    duration,
    finite_or_none,
    is_undetermined,
    join_words,
    joules,
    number,
    percent,
    quantity,
    shorten,
    slug,
    timestamp,
    undetermined,
    with_ends,
    with_interval,
)
from joulelab.layout import Line
from joulelab.recording.trace import Trace
from joulelab.runs import name_of
from joulelab.runs.listing import LEAST_GAP
from joulelab.runs.record import Run, read_run, saved_run_directories
from joulelab.runs.span_tree import SpanNode, flat_tree, run_extent, span_tree
from joulelab.sensors.sensor import Absence, Provenance
from joulelab.uncertain import Ratio, ratio

MOST_SPANS = 8
LONGEST_NAME = 40
MOST_EPOCHS = 8
MOST_CANDIDATES = 50
SITE_HINT = "set your location once: `joulelab site --country FR --price 0.25 --currency EUR`"
SHORT_COMMAND_S = 2.0
"""A command that ends earlier may have ended before its recorder was ready."""


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
            **with_ends("energy_ratio", "", *astuple(self.energy)),
            "duration_ratio": self.duration,
            "differ": list(self.differences),
        }


def previous_run(run: Run) -> Run | None:
    """Find the newest finished run of the same command, name and project before this one.

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
        is_earlier = other.started_unix_s < run.started_unix_s
        if is_same and is_earlier and other.finished and not math.isnan(other.energy.gross_j):
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


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a run; ``phase`` is empty if the program did not state it."""

    phase: str
    index: int
    energy: Energy
    accuracy_pct: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes ``None``."""
        low_j, high_j = self.energy.interval_j
        values = {
            "phase": self.phase or None,
            "index": self.index,
            "duration_s": self.energy.duration_s,
            "gross_j": self.energy.gross_j,
            "low_j": low_j,
            "high_j": high_j,
            "net_j": self.energy.net_j,
            "accuracy_pct": self.accuracy_pct,
        }
        return dict(finite_or_none(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run with its spans and costs: what `joulelab run` and `joulelab show` print."""

    run: Run
    costs: Costs  # Carbon and money of its energy.
    # With the previous run of the same command, if there is one.
    comparison: Comparison | None = None
    # Sources that were missing, which say why a component was estimated.
    absent: Sequence[Absence] = ()
    tree: tuple[SpanNode, ...] = ()  # The spans by name and nesting.
    epochs: tuple[Epoch, ...] = ()  # In order of time; only for saved runs.
    # Whether the run is shown again, so that the user may not know which it is.
    is_saved: bool = False

    @classmethod
    def of(
        cls, run: Run, trace: Trace | None, estimator: EnergyEstimator | None, previous: Run | None
    ) -> Self:
        """Summarize a run, with its trace and the estimator of its energies if they are known."""
        costs = local_costs(
            run.energy,
            started_unix_s=run.started_unix_s,
            stopped_unix_s=run.ended_unix_s,
            trace=None if trace is None else lambda: trace,
        )
        tree = flat_tree(run.spans)
        if trace is not None and estimator is not None:
            tree = span_tree(trace, estimator, *run_extent(run)) or tree
        return cls(
            run=run,
            costs=costs,
            comparison=compare(run, previous),
            absent=() if trace is None else trace.absent,
            tree=tree,
        )

    def lines(self, most_spans: int | None = MOST_SPANS) -> list[Line]:
        """Return what a user wants to know of the run.

        Args:
            most_spans: Leave out the shortest spans beyond this number; ``None`` leaves out none.
        """
        run = self.run
        return [
            ("joulelab", f"{shorten(shlex.join(run.command) or run.name, 60)}  {_ending(run)}"),
            *(_identity_lines(run) if self.is_saved else ()),
            *_energy_lines(run, self.absent),
            *_span_lines(self.tree, most_spans),
            *_epoch_lines(self.epochs),
            *_forecast_lines(run, self.epochs),
            *_cost_lines(self.costs),
            *_exchange_lines(run),
            *_comparison_lines(self.comparison),
            *_notes(run),
            ("record", str(run.directory)),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the record with costs, spans by nesting, and the comparison."""
        last = None if self.comparison is None else self.comparison.to_json()
        tree = [one.to_json() for one in self.tree]
        network = local_network_energy(self.run.exchanged)
        return self.run.to_json() | {
            "costs": self.costs.to_json(),
            "network_energy": None if network is None else network.to_json(),
            "span_tree": tree,
            "last_time": last,
            **({"epochs": [one.to_json() for one in self.epochs]} if self.is_saved else {}),
        }


def _ending(run: Run) -> str:
    how = f"exit code {run.exit_code}" if run.exit_code else run.status
    if run.signal is not None:
        names = {int(one): one.name for one in signal.Signals}
        how = f"ended by {names.get(run.signal, f'signal {run.signal}')}"
    return f"{how} after {duration(run.duration_s)}"


def _identity_lines(run: Run) -> Iterator[Line]:
    started = "" if math.isnan(run.started_unix_s) else timestamp(run.started_unix_s)
    host = f"on {run.host}" if run.host else ""
    yield "run", ", ".join(filter(None, (run.id, started, host)))
    labels = {"name": run.name, "project": run.project, "phase": run.phase, **run.tags}
    yield "labels", ", ".join(f"{name}={value}" for name, value in labels.items() if value)


def _energy_lines(run: Run, absent: Sequence[Absence]) -> Iterator[Line]:
    energy = run.energy
    if not energy.components:
        # A component with a number was found.
        if run.duration_s < SHORT_COMMAND_S and any(":" in name for name in energy.absent):
            yield "energy", "not measured: the command ended before its sensors had covered it"
            yield "", "measure a short command with `joulelab run --wait`"
            return
        for reason in dict.fromkeys(energy.absent.values()):
            yield "energy", f"not measured: {reason}"
        return
    power = f"{quantity(energy.mean_power_w, 'W')} on average"
    yield "energy", f"{joules(energy.gross_j, *energy.interval_j)}, {power}"
    if math.isnan(energy.net_j):
        parts = energy.components.items()
        names = [name for name, part in parts if math.isnan(part.idle_j)]
        of = f" for {join_words(names)}" if len(names) < len(parts) else ""
        yield "", f"net of idle unknown{of}: measure the idle machine once with `joulelab idle`"
    else:
        net = with_interval(energy.net_j, *energy.net_interval_j, "J")
        yield "", f"{net} net of {quantity(energy.idle_j, 'J')} idle"
    for name, part in energy.components.items():
        yield _component_line(name, part, f"({sensor_of(part.source)})")
    for name, part in energy.enclosed.items():
        yield _component_line(name, part, f"({sensor_of(part.source)}), not added")
    for name, reason in energy.absent.items():
        yield f"  {name}", reason
    yield from _estimated_because(energy, absent)
    for one in energy.enclosures:
        meters = Energy(duration_s=energy.duration_s, components=one.meters)
        yield _component_line(one.name, meters, f"({one.source}), around its parts")
        yield "", one.difference_text
    yield "", f"not metered: {energy.unmetered}"
    if energy.job_text:
        yield "own share", energy.job_text


def _component_line(name: str, part: ComponentEnergy | Energy, source: str) -> Line:
    low_j, high_j = part.interval_j
    energy = f"{quantity(part.gross_j, 'J'):>9} ± {quantity((high_j - low_j) / 2, 'J'):8}"
    if low_j == 0 < high_j:  # Cut off, so that it is not symmetric.
        energy = f"{with_interval(part.gross_j, low_j, high_j, 'J', level=''):20}"
    power = f"{quantity(part.mean_power_w, 'W'):>8}  {part.provenance} {source}"
    return f"  {name}", f"{energy} {power}"


def _estimated_because(energy: Energy, absent: Sequence[Absence]) -> Iterator[Line]:
    """Say which source would have measured what was estimated, and why it is missing."""
    estimated: dict[str, list[str]] = {}
    for name, part in energy.components.items():
        if part.provenance is Provenance.ESTIMATED:
            reasons = [a.brief for a in absent if a.component in (name, name.partition(":")[0])]
            for reason in reasons[:1]:
                estimated.setdefault(reason, []).append(name)
    for reason, names in estimated.items():
        verb = "is" if len(names) == 1 else "are"
        yield "", f"{join_words(names)} {verb} estimated: {reason}"


def _span_lines(tree: Sequence[SpanNode], most: int | None) -> Iterator[Line]:
    rows = [row for node in tree for row in node.walk()]
    # Parents are not shorter than their children, so each has its parent above it.
    longest = sorted(range(len(rows)), key=lambda i: -rows[i][1].total.duration_s)[:most]
    shown = [rows[i] for i in sorted(longest)]
    names = ["  " * depth + shorten(node.name, LONGEST_NAME) for depth, node in shown]
    times = [_times(node) for _, node in shown]
    name_width, time_width = (max(map(len, one), default=0) for one in (names, times))
    indent = " " * (name_width + 2)
    for name, time_text, (_, node) in zip(names, times, shown, strict=True):
        first = f"{name:{name_width}}  {time_text:{time_width}}"
        yield "spans", f"{first}\n{indent}{_energies(node)}"
    if len(rows) > len(shown):
        yield "spans", f"and {count(len(rows) - len(shown), 'more name')}, see `joulelab show`"


def _times(node: SpanNode) -> str:
    """State how often and how long spans were: in total, and each.

    Spans of processes at the same time are longer, added up, than what they cover.
    """
    total = node.total
    if total.count == 1:
        return f"once, {duration(total.duration_s)}"
    each = f"{duration(node.mean_s)} each"
    return f"{total.count:,} times, {duration(total.duration_s)} in total, {each}"


def _energies(node: SpanNode) -> str:
    total = node.total
    if math.isnan(total.gross_j):
        return "not measured"
    texts = [with_interval(total.gross_j, total.low_j, total.high_j, "J", level="")]
    is_sum = math.isclose(total.count * node.mean_s, total.duration_s, rel_tol=1e-6)
    if total.count > 1 and is_sum:
        texts.append(f"{quantity(total.gross_j / total.count, 'J')} each")
    if node.children and not math.isnan(node.self_j):
        texts.append(f"{quantity(node.self_j, 'J')} outside the spans below")
    return ", ".join(texts)


def _epoch_lines(epochs: Sequence[Epoch]) -> Iterator[Line]:
    """List the epochs; of many, only the first and the last ones."""
    omitted = max(0, len(epochs) - MOST_EPOCHS)
    first = MOST_EPOCHS // 2 if omitted else len(epochs)
    for i, one in enumerate(epochs):
        if first <= i < first + omitted:
            if i == first:
                yield "epochs", f"… {count(omitted, 'more epoch')}, see --json"
            continue
        energy = "not measured"
        if not math.isnan(one.energy.gross_j):
            energy = with_interval(one.energy.gross_j, *one.energy.interval_j, "J", level="")
        accuracy = "" if one.accuracy_pct is None else f", accuracy {number(one.accuracy_pct)} %"
        phase = f"{one.phase} " if one.phase else ""
        yield (
            "epochs",
            f"{phase}{one.index:>3}  {duration(one.energy.duration_s):>9}  {energy}{accuracy}",
        )


def _forecast_lines(run: Run, epochs: Sequence[Epoch]) -> Iterator[Line]:
    """Say how to forecast a longer training from several epochs of one phase."""
    counts = Counter(one.phase for one in epochs)
    if not epochs:
        counts.update({one.name: one.count for one in run.spans if one.name == EPOCH})
    if max(counts.values(), default=0) > 1:
        is_saved = run.directory.parent in saved_run_directories()
        name = run.id if is_saved else shlex.quote(str(run.directory))
        yield "forecast", f"of a longer training: `joulelab forecast {name} --epochs 100`"


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


def _exchange_lines(run: Run) -> Iterator[Line]:
    """Say what data was exchanged, and what networks used for it."""
    for text in run.exchanged.lines() if run.exchanged is not None else ():
        yield "data", text
    if network := local_network_energy(run.exchanged):
        yield "", network.text()


def _comparison_lines(found: Comparison | None) -> Iterator[Line]:
    if found is None:
        return
    ends = found.energy.low, found.energy.high
    energy = f"{change(found.energy.value, *ends)} energy"
    if is_undetermined(*ends):
        energy = f"a change of energy that {undetermined()}"
    days = (time.time() - found.previous.started_unix_s) / 86400
    ago = f", {days:.0f} days ago" if days >= 1.5 else ""
    yield (
        "last time",
        f"{energy} and {percent(found.duration - 1, signed=True)} time, against the run of "
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
