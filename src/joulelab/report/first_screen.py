"""What a reader wants to know of studies first: the same for the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from joulelab.carbon.costs import Costs
from joulelab.carbon.site import local_costs
from joulelab.findings.all import Analysis
from joulelab.findings.hosts import joint_name
from joulelab.findings.key_findings import MOST, KeyFindings, key_findings
from joulelab.findings.schema import PHASES
from joulelab.findings.totals import Total, study_totals
from joulelab.format import count, duration, percent, quantity
from joulelab.layout import Line
from joulelab.report.facts import Fact, cost_facts, devices_text, energy_fact, longer_training
from joulelab.report.provenance import component_name, provenance_summary
from joulelab.run.summary import SITE_HINT
from joulelab.runs.shared_machine import study_caveats

MOST_PER_PLACE = 3
"""Key findings of each place where there are several."""


@dataclass(frozen=True, slots=True)
class Place:
    """A study on one machine: what it cost and what was found."""

    title: str  # The study, and its machine if it ran on several.
    machine: str  # Its devices.
    facts: tuple[Fact, ...]  # Energy, time, carbon and money.
    keys: KeyFindings  # The key findings.
    forecast: str  # What a longer training would cost, and how to ask for another; may be empty.
    is_simulated: bool  # Whether its energies are simulated.


@dataclass(frozen=True, slots=True)
class FirstScreen:
    """The first screen of a report."""

    warnings: tuple[str, ...]  # What makes values doubtful, and what to do about it.
    machines: KeyFindings  # Findings that compare machines.
    places: tuple[Place, ...]  # Each study on each of its machines.
    basis: str  # What carbon and money are based on, or how to get them.

    def lines(self) -> list[Line]:
        """Return all of it as labelled lines."""
        lines: list[Line] = [("warning", text) for text in self.warnings]
        lines += _key_lines(self.machines)
        for place in self.places:
            if len(self.places) > 1:
                lines.append(("study", place.title))
            lines += _key_lines(place.keys)
            lines.append(("machine", place.machine))
            lines += [
                (fact.name.lower(), ", ".join(filter(None, (fact.value, *fact.details))))
                for fact in place.facts
            ]
            if place.forecast:
                lines.append(("forecast", place.forecast))
        return [*lines, ("carbon", self.basis)] if self.basis else lines

    def to_json(self) -> list[str]:
        """Return the ids of the key findings, in order; ``findings.json`` has their values."""
        found = [self.machines, *(place.keys for place in self.places)]
        return [one.finding.id for keys in found for one in keys.answers]


def first_screen(analysis: Analysis) -> FirstScreen:
    """Choose what a reader wants to know first."""
    tables = analysis.tables
    totals = [total for study in tables.studies for total in study_totals(study)]
    costs = [_costs(total) for total in totals]
    warnings = [
        f"{study.label}: {caveat}" if len(tables.studies) > 1 else caveat
        for study in tables.studies
        for caveat in study_caveats(study)
    ]
    compared = [one for one in analysis.findings if not one.study]
    return FirstScreen(
        warnings=tuple(warnings),
        machines=key_findings(compared, _quantity(analysis), MOST_PER_PLACE),
        places=tuple(
            _place(analysis, total, cost, is_only=len(totals) == 1)
            for total, cost in zip(totals, costs, strict=True)
        ),
        basis=_basis(costs),
    )


def _key_lines(keys: KeyFindings) -> list[Line]:
    lines = [("found", one.text) for one in keys.answers]
    return [*lines, ("unknown", keys.open_text)] if keys.open_text else lines


def _quantity(analysis: Analysis) -> str:
    return "net" if analysis.tables.measurements["net_j"].notna().any() else "gross"


def _place(analysis: Analysis, total: Total, costs: Costs, *, is_only: bool) -> Place:
    study, machine = total.study, total.machine
    own = analysis.tables.measurements
    own = own[own["study"] == study.label]
    identity = machine.identity if machine else ""
    name = joint_name({run.machine.host for run in total.runs if run.machine}) or "unknown"
    is_one_machine = own["identity"].nunique() < 2
    if machine is not None and not is_one_machine:
        own = own[own["identity"] == identity]
        name = str(own["machine"].iloc[0])
    groups = set(own["group"])
    findings = [
        one
        for one in analysis.findings
        if one.study == study.label and (not one.groups or groups & set(one.groups))
    ]
    return Place(
        title=study.label if is_one_machine else f"{study.label}, {name}",
        machine="unknown" if machine is None else f"{name}: {devices_text(machine)}",
        facts=tuple(_facts(total, costs)),
        keys=key_findings(findings, _quantity(analysis), MOST if is_only else MOST_PER_PLACE),
        forecast=_forecast(total, own),
        is_simulated=bool((own["provenance"] == "simulated").any()),
    )


def _facts(total: Total, costs: Costs) -> Iterator[Fact]:
    gross, net = total.gross, total.net
    if math.isnan(gross.value):
        yield Fact("Energy", "not measured")
    else:
        yield energy_fact("Energy", gross.value, gross.interval, provenance_summary(total.sources))
        if math.isnan(net.value):
            yield Fact("Net of idle", "unknown", ("idle power was not measured",))
        else:
            yield energy_fact("Net of idle", net.value, net.interval)
    for one in total.enclosures[-1:]:  # The outermost; the others are on the runs' pages.
        name = " + ".join(map(component_name, one.meters))
        yield energy_fact(name, one.gross_j, one.interval_j, one.difference_text)
    runs = f"{count(len(total.runs), 'run')}, {quantity(gross.value / total.duration_s, 'W')}"
    yield Fact("Time", duration(total.duration_s), (f"{runs} on average",))
    if len(total.phases) > 1 and math.isfinite(gross.value):
        by_energy = sorted(total.phases.items(), key=lambda one: -one[1][0])
        names, shares = zip(*(
            (
                PHASES[phase],
                f"{percent(gross_j / gross.value)}: {quantity(gross_j, 'J')} in "
                f"{duration(duration_s)}",
            )
            for phase, (gross_j, duration_s) in by_energy
        ), strict=True)  # fmt: skip
        others = (f"{name} {share}" for name, share in zip(names[1:], shares[1:], strict=True))
        yield Fact("Costs most", names[0], (shares[0], *others))
    yield from cost_facts(costs)


def _costs(total: Total) -> Costs:
    times = [time for run in total.runs for time in (run.started_unix_s, run.ended_unix_s)]
    known = [time for time in times if not math.isnan(time)]
    return local_costs(
        total.gross.value,
        total.gross.interval,
        started_unix_s=min(known, default=math.nan),
        stopped_unix_s=max(known, default=math.nan),
    )


def _basis(costs: Sequence[Costs]) -> str:
    """State where the intensity comes from, or why carbon is unknown."""
    if not costs:
        return ""
    if not any(one.text() for one in costs):
        return f"for carbon and cost, {SITE_HINT}"
    pue = "" if costs[0].pue == 1 else f", PUE {costs[0].pue:g}"
    origins = {
        f"at {one.factor}{pue}" if one.factor else f"unknown: {one.no_carbon}" for one in costs
    }
    return f"CO2e {'; '.join(sorted(origins))}"


def _forecast(total: Total, measured: pd.DataFrame) -> str:
    """Forecast a longer training of the model that uses the least energy, from one of its runs."""
    training = measured[measured["phase"] == "train"].sort_values("gross_j_per_unit")
    models = list(dict.fromkeys(training["model"]))
    runs = [
        run
        for model in models
        for run in total.runs
        if run.model == model and run.study is not None
        if "train" in run.study.results
    ]
    if not runs:
        return ""
    text = longer_training(runs[0].directory, "train")
    return text and f"{runs[0].model}, {text}"
