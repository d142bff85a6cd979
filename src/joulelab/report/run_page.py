"""Page of a run: what it cost, which part costs most, power over time, and where values come from.

It shows wrapped commands, programs with a meter, and jobs of several processes.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from markupsafe import Markup

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import local_network_energy
from joulelab.energy.baseline import BUSY_IDLE
from joulelab.energy.energy import Energy
from joulelab.energy.uncertainty import Boards, gross_energy
from joulelab.findings.tables import write_file
from joulelab.forecast.sources import EPOCH, profile_of_trace
from joulelab.format import (
    count,
    duration,
    percent,
    quantity,
    sentence,
    shorten,
    timestamp,
    with_interval,
)
from joulelab.machine import Machine
from joulelab.recording.trace_format import FORECAST
from joulelab.report.charts.style import CONFIG
from joulelab.report.facts import (
    Fact,
    cost_facts,
    devices_text,
    energy_fact,
    interval_text,
    longer_training,
)
from joulelab.report.page_data import pack, script_json
from joulelab.report.page_template import fill_template, page_path, scripts
from joulelab.report.provenance import component_name, source_statement
from joulelab.report.recorded_run import RecordedRun, open_recorded
from joulelab.report.run_figures import (
    RunFigure,
    epochs_figure,
    icicle_figure,
    power_figure,
    spans_figure,
)
from joulelab.report.run_tables import component_table, epoch_table, span_table
from joulelab.run.summary import SITE_HINT, Epoch
from joulelab.runs.record import Run, SpanTotal, sum_of_known
from joulelab.runs.shared_machine import Sharing, is_shared
from joulelab.runs.span_tree import SpanNode, run_extent
from joulelab.uncertain import COVERAGE_FACTOR

SCRIPT = "run.js"
LEAST_OUTSIDE = 0.05
"""Energy outside of spans is mentioned from this share on."""


def write_run_page(name_or_path: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run and return it.

    Args:
        name_or_path: What :func:`joulelab.report.recorded_run.open_recorded` takes.
        out: The page (a name that ends in ``.html``) or its directory. Default: that of the run.

    Raises:
        UserError: There is no such run, or its record is damaged.
        TraceError: The run is unfinished and its trace is damaged.
        StoreError: The page cannot be written.
    """
    recorded = open_recorded(name_or_path)
    # Scripts take seconds and release the interpreter.
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(scripts, SCRIPT)
        found = [
            *((power_figure(recorded), spans_figure(recorded)) if recorded.recordings else ()),
            icicle_figure(recorded.summary),
            epochs_figure(recorded.summary.epochs),
        ]
        drawn = {one.name: (one, one.image()) for one in found if one is not None}
        pending.result()
    html = _html(recorded, drawn)
    return write_file(page_path(recorded.run.directory, out), html.encode())


def _html(recorded: RecordedRun, drawn: Mapping[str, tuple[RunFigure, Markup]]) -> str:
    run, energy, costs = recorded.run, recorded.run.energy, recorded.summary.costs
    machines = _machines(recorded)
    return fill_template(
        "run.html.j2",
        script=SCRIPT,
        title=run.name,
        data=_page_data([figure for figure, _ in drawn.values()]),
        command=shorten(shlex.join(run.command), 200),
        when=_when(recorded),
        simulated=str(energy.provenance) == "simulated",
        warnings=[sentence(one) for one in warnings_of(recorded)],
        answers=[sentence(one) for one in answers(recorded)],
        facts=facts(run, costs),
        machines=[f"{host}: {devices_text(one)}" for host, one in machines.items()],
        figures=drawn,
        has_net=math.isfinite(energy.net_j) and energy.net_j > 0,
        spans=span_table(recorded.summary),
        epochs=epoch_table(recorded.summary.epochs, has_net=math.isfinite(energy.net_j)),
        forecasts=[sentence(one) for one in _forecasts(recorded)],
        components=component_table(energy),
        sources=_source_lines(energy),
        absent={component_name(name): why for name, why in energy.absent.items()},
        notes=[sentence(one) for one in _notes(recorded)],
        record=_record(recorded),
        hardware=[(host, one.hardware_configuration()) for host, one in machines.items()],
    )  # fmt: skip


def _page_data(figures: Sequence[RunFigure]) -> Markup:
    """Return the JSON that ``run.js`` reads."""
    content = {
        "config": CONFIG,
        "figures": {
            one.name: {
                "specification": one.specification,
                "columns": pack(one.rows),
                "range": one.range_s,
            }
            for one in figures
        },
    }
    return Markup(script_json(content))  # noqa: S704


def _when(recorded: RecordedRun) -> str:
    run = recorded.run
    how = {"done": "finished", "failed": "failed", "unfinished": "not finished"}[run.status]
    job = recorded.job
    ranks = ""
    if job is not None:
        several = [count(len(job.hosts), "host")]
        if job.ranks:
            several.append(count(len(job.ranks), "rank"))
        ranks = f" ({', '.join(several)})"
    return f"{timestamp(run.started_unix_s)} on {run.host or 'an unknown host'}{ranks}, {how}"


def warnings_of(recorded: RecordedRun) -> Iterator[str]:
    """Yield what makes the values of a run doubtful, and what it does to them."""
    run, energy = recorded.run, recorded.run.energy
    if run.failure:
        yield f"the program failed: {run.failure.get('reason') or run.failure.get('kind')}"
    elif run.status == "failed":
        how = f"signal {run.signal}" if run.exit_code is None else f"exit code {run.exit_code}"
        yield f"the program failed ({how})"
    elif run.status == "unfinished":
        yield "the end of the run was not recorded: values go up to the last reading"
    sharing = Sharing.of_runs([run])
    if sharing is not None:
        yield sharing.caveat
    yield from (note for note in energy.caveats if note.startswith(BUSY_IDLE))
    if energy.negative_net:
        yield energy.negative_net
    if recorded.job is not None:
        yield from (*recorded.job.missing, *recorded.job.doubled)
    if recorded.problem:
        yield f"power over time and spans cannot be shown: {recorded.problem}"


def answers(recorded: RecordedRun) -> Iterator[str]:
    """Yield what a reader asks first: which span costs most, what is idle, what epochs cost."""
    energy = recorded.run.energy
    if not energy.components:
        yield "no energy was measured"
        return
    yield from _costliest(recorded)
    if math.isfinite(energy.idle_j):
        share = energy.idle_j / energy.gross_j if energy.gross_j > 0 else math.nan
        if share < 1:
            yield (
                f"idle power is {percent(share)} of the energy: the machine would have used "
                f"{quantity(energy.idle_j, 'J')} in this time without the program"
            )
    epochs = recorded.summary.epochs
    if len(epochs) > 1:
        total = _epoch_total(recorded)
        yield (
            f"{len(epochs)} epochs took {duration(total.duration_s)} and "
            f"{quantity(total.gross_j, 'J')} in total, "
            f"{duration(total.duration_s / len(epochs))} and "
            f"{quantity(total.gross_j / len(epochs), 'J')} each on average"
            f"{_costliest_epoch(epochs)}"
        )
        if recorded.job is None and (longer := longer_training(recorded.run.directory)):
            yield longer


def _costliest_epoch(epochs: Sequence[Epoch]) -> str:
    most = max(epochs, key=lambda one: np.nan_to_num(one.energy.gross_j))
    name = f"{most.phase} {most.index}".strip()
    energy = quantity(most.energy.gross_j, "J")
    return f"; epoch {name} used the most, {energy} in {duration(most.energy.duration_s)}"


def _forecasts(recorded: RecordedRun) -> Iterator[str]:
    """Compare the first forecast that a loop recorded of itself with what came."""
    run = recorded.run
    if recorded.job is not None or run.study is not None or run.status != "done":
        return
    start_ns, stop_ns = run_extent(run)
    for recording in recorded.recordings:
        made = [
            event
            for event in recording.trace.events
            if event.get("event") == FORECAST and start_ns <= event["t_ns"] <= stop_ns
        ]
        if not made or made[0]["epochs"] != len(recorded.summary.epochs):
            continue
        first = made[0]
        came = profile_of_trace(recording.trace, since_ns=start_ns, pid=first["pid"])
        energy = with_interval(first["gross_j"], first["gross_low_j"], first["gross_high_j"], "J")
        length = duration(first["duration_s"])
        came_s = math.fsum(row.duration_s for row in came.rows)
        yield (
            f"the forecast after {count(round(first['epochs_seen']), 'epoch')} of "
            f"{first['epochs']:g} was {energy} and {length}; it took "
            f"{quantity(came.spent_j, 'J')} and {duration(came_s)}"
        )


def _epoch_total(recorded: RecordedRun) -> SpanTotal:
    """Return the total of all epochs; time in which ranks were in different ones counts once."""
    named = [one for one in recorded.run.spans if one.name == EPOCH]
    if named and recorded.run.study is None:
        return named[0]
    energies = [one.energy for one in recorded.summary.epochs]
    return SpanTotal.of(EPOCH, len(energies), sum_of_known(energies))


def _costliest(recorded: RecordedRun) -> Iterator[str]:
    """State which spans cost most by themselves, and what lies outside of all spans."""
    tree, gross_j = recorded.summary.tree, recorded.run.energy.gross_j
    nodes = [node for one in tree for _, node in one.walk() if node.own and node.self_j > 0]
    if not nodes or not gross_j > 0:
        return
    first, *others = sorted(nodes, key=lambda one: -one.self_j)
    outside_j = gross_j - math.fsum(one.total.gross_j for one in tree)
    outside = (
        f"{percent(outside_j / gross_j)} of the energy ({quantity(outside_j, 'J')}) was used "
        "outside of all spans, for example while the program started"
    )
    if outside_j > first.self_j:
        yield outside
    inner = ", without the spans within it," if first.self_j < 0.95 * first.total.gross_j else ""
    value = with_interval(first.self_j, *first.self_interval_j, "J")
    several = f", in {count(first.total.count, 'span')}" if first.total.count > 1 else ""
    text = (
        f"span {first.name!r}{inner} costs most: {value}, "
        f"{percent(first.self_j / gross_j)} of the run{several}"
    )
    if others:
        text += f"; {others[0].name!r} follows with {quantity(others[0].self_j, 'J')}"
        if not _is_significant(first, others[0], recorded.boards):
            text += ", no significant difference (95 %)"
    yield text
    if LEAST_OUTSIDE * gross_j < outside_j <= first.self_j:
        yield outside


def _is_significant(first: SpanNode, second: SpanNode, boards: Boards) -> bool:
    """Report whether one kind of span used more by itself than another; common errors cancel."""
    if first.own is None or second.own is None:
        return False
    difference = gross_energy(first.own, boards) - gross_energy(second.own, boards)
    return difference.value > COVERAGE_FACTOR * difference.uncertainty


def facts(run: Run, costs: Costs) -> list[Fact]:
    """Return the values of the first screen."""
    energy = run.energy
    if not energy.components:
        return [Fact("Energy", "not measured"), Fact("Duration", duration(run.duration_s))]
    power = f"{quantity(energy.mean_power_w, 'W')} on average"
    found = [
        energy_fact("Energy", energy.gross_j, energy.interval_j),
        energy_fact("Net of idle", energy.net_j, energy.net_interval_j)
        if math.isfinite(energy.net_j)
        else Fact("Net of idle", "unknown", ("measure idle power once: joulelab idle",)),
    ]
    if is_shared(energy) and math.isfinite(energy.job_j):
        share = f"{percent(energy.job_j / energy.gross_j)} of all"
        ends = interval_text(energy.job_j, energy.job_interval_j)
        found.append(Fact("This program's share", quantity(energy.job_j, "J"), (share, ends)))
    # The energy of a study's run is that of its spans.
    is_partial = not math.isclose(energy.duration_s, run.duration_s, rel_tol=0.01)
    measured = f"{duration(energy.duration_s)} of it measured" if is_partial and run.study else ""
    found.append(Fact("Duration", duration(run.duration_s), (power, measured)))
    found += cost_facts(costs)
    if network := local_network_energy(run.exchanged):
        used = with_interval(*network.energy("average"), "J", level="")
        texts = (f"networks: {used}, derived",)
        found.append(Fact("Over the network", quantity(network.volume.value, "B"), texts))
    return found


def _machines(recorded: RecordedRun) -> dict[str, Machine]:
    if recorded.job is None:
        return {recorded.run.host: recorded.run.machine} if recorded.run.machine else {}
    return {one.host: one.machine for one in recorded.parts if one.machine is not None}


def _source_lines(energy: Energy) -> list[str]:
    """State where each value of the table is from, and what meters show beyond their parts."""
    lines = [source_statement(part) for part in energy.all_parts.values()]
    for one in energy.enclosures:
        if one.difference_text:
            name = " + ".join(map(component_name, one.meters))
            lines.append(f"{name}: {one.difference_text}.")
    return lines


def _notes(recorded: RecordedRun) -> list[str]:
    run, energy, costs = recorded.run, recorded.run.energy, recorded.summary.costs
    stated = set(warnings_of(recorded))
    only = f"{run.host}: " if recorded.job is not None else ""
    notes = [
        note.removeprefix(only) for note in (*energy.caveats, *run.notes) if note not in stated
    ]
    if recorded.recordings:
        notes += [text for one in recorded.recordings for text in one.trace.damage]
    if energy.gap_s > 0.01 * run.duration_s:
        notes.append(f"no readings for {duration(energy.gap_s)} (included in the interval)")
    if run.exchanged is not None:
        notes += [f"data: {text}" for text in run.exchanged.lines()]
    if network := local_network_energy(run.exchanged):
        notes.append(network.text())
    known = costs.text()
    notes.append(known or SITE_HINT)
    if known and costs.no_carbon:
        notes.append(f"CO2e unknown: {costs.no_carbon}")
    return [*dict.fromkeys(notes), f"not metered: {energy.unmetered}"]


def _record(recorded: RecordedRun) -> list[tuple[str, str]]:
    run = recorded.run
    rows = [("Record", str(run.directory)), ("Id", run.id), ("Kind", run.kind)]
    rows += [
        (name, text) for name, text in (("Project", run.project), ("Phase", run.phase)) if text
    ]
    rows += [("Tags", ", ".join(f"{key}={value}" for key, value in run.tags.items()))] * bool(
        run.tags
    )
    readings = sum(one.trace.size for one in recorded.recordings)
    spans = sum(map(len, recorded.spans))
    rows.append(("Recorded", f"{count(readings, 'reading')}, {count(spans, 'span')}"))
    if run.baseline is not None:
        rows.append(("Idle power", f"{count(len(run.baseline.points), 'measurement')}"))
    return rows
