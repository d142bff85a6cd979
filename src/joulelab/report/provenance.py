"""Provenance of a study's energies: what was measured, estimated, simulated or absent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.errors import TraceError
from joulelab.format import join_words
from joulelab.recording.trace import read_trace
from joulelab.runs.study_runs import Study
from joulelab.sensors.sensor import Provenance
from joulelab.uncertain import COVERAGE_FACTOR

_KINDS = {
    "gpu": "GPU", "cpu": "CPU", "dram": "Memory", "soc": "Chip", "card": "Card",
    "module": "Module", "node": "Node", "psu": "Power supply", "plug": "Plug",
    "socket": "Socket", "rail": "Rail",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """A source of a study's energies: a statement, and what it assumes (may be empty)."""

    component: str
    provenance: str
    statement: str
    assumptions: str


def origins(study: Study) -> list[Origin]:
    """List every source that gave energy in a finished run, by component."""
    parts: dict[tuple[str, str], ComponentEnergy] = {}
    for energy in _energies(study):
        for part in energy.all_parts.values():
            parts.setdefault((part.component, part.source), part)
    notes = _notes(study)
    return [
        Origin(
            part.component,
            str(part.provenance),
            source_statement(part),
            notes.get(key, "").removeprefix(f"{part.provenance}: "),
        )
        for key, part in sorted(parts.items())
    ]


def provenance_summary(sources: Iterable[tuple[str, str]]) -> str:
    """Summarise pairs of component and provenance, like ``"GPU measured, CPU estimated"``.

    Returns:
        One word if all are the same; empty without sources.

    Example:
        >>> provenance_summary([("gpu:0", "measured"), ("cpu:0", "estimated")])
        'CPU estimated, GPU measured'
    """
    found: dict[str, set[str]] = {}
    for component, provenance in sources:
        found.setdefault(provenance, set()).add(_kind(component))
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{join_words(sorted(kinds))} {word}" for word, kinds in sorted(found.items()))


def absences(study: Study) -> dict[str, str]:
    """Return component to reason for what was absent from a finished run."""
    found: dict[str, str] = {}
    for energy in _energies(study):
        for component, reason in energy.absent.items():
            found.setdefault(component_name(component), reason)
    return dict(sorted(found.items()))


def component_name(component: str) -> str:
    """Return a reader's name of a component.

    Example:
        >>> component_name("gpu:0"), component_name("dram"), component_name("cpu:0@node1")
        ('GPU 0', 'Memory', 'CPU 0 on node1')
    """
    part, _, host = component.partition("@")
    _, _, index = part.partition(":")
    return " ".join(filter(None, (_kind(part), index, f"on {host}" if host else "")))


def _kind(component: str) -> str:
    kind = component.partition(":")[0]
    return _KINDS.get(kind, kind)


def _energies(study: Study) -> Iterator[Energy]:
    for run in study.cells():
        if run.study is not None:
            yield from [result.energy for result in run.study.results.values()]


def source_statement(part: ComponentEnergy) -> str:
    """State how the energy of a component was found, and its uncertainty."""
    name = component_name(part.component)
    how = {
        Provenance.MEASURED: f"{name} power is measured by the hardware ({part.source}).",
        Provenance.ESTIMATED: f"{name} power is estimated, not measured ({part.source}).",
        Provenance.SIMULATED: f"{name} power is simulated, not measured ({part.source}).",
    }[part.provenance]
    uncertainties = []
    if part.gain_uncertainty > 0:
        uncertainties.append(f"±{100 * COVERAGE_FACTOR * part.gain_uncertainty:.2g} % of its value")
    if part.offset_uncertainty_w > 0:
        uncertainties.append(f"±{COVERAGE_FACTOR * part.offset_uncertainty_w:.2g} W")
    if not uncertainties:
        return how
    return f"{how} Its uncertainty is {' and '.join(uncertainties)} (95 %)."


def _notes(study: Study) -> dict[tuple[str, str], str]:
    """Return the notes of channels, from the first readable trace."""
    for run in [*study.idles(), *study.cells()]:
        try:
            channels = read_trace(run.directory).channels
        except (TraceError, OSError):
            continue
        return {(one.component, one.source): one.note for one in channels if one.gives_energy}
    return {}
