"""The part of a record that only runs of a study have: phases, epochs and measured spans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joulelab.energy.energy import Energy, StoredEnergy
from joulelab.runs.stored_records import StoredStudyPart

WHOLE_SPANS = ("idle", "warmup", "epoch", "validate")
"""Spans of a study run that do not lie within one another; together they are the whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """One measured span of a study run; times are CLOCK_MONOTONIC."""

    name: str
    attributes: Mapping[str, Any]
    start_ns: int
    stop_ns: int
    energy: Energy


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRecord:
    """A phase of a study run without warm-up and validation, or one epoch of it."""

    phase: str  # ``"train"`` or ``"infer"``; of language models also ``"prefill"`` or ``"decode"``.
    index: int = -1  # Index of the epoch, from 0; -1 for a whole phase.
    energy: Energy  # Net of the idle power that its study measured.
    # Whether an epoch covered the whole data set; whether a phase did all of its work, which a
    # limit in seconds may have cut short.
    complete: bool = True
    # Everything else that was recorded, for example ``samples``, ``steps``, ``loss``,
    # ``accuracy_pct``. Values that were not measured are ``None`` or missing.
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPart:
    """The part of a record that only runs of a study have."""

    name: str  # Name of the study.
    is_idle: bool  # Whether the run measured idle power, not a cell of the plan.
    # Position in the randomised design, from 0; an idle run has no order.
    block: int
    order: int | None
    repeat: int
    seed: int | None
    phases: tuple[str, ...]  # Planned phases.
    characteristics: Mapping[str, Any]  # Parameters, MACs and sizes of the model; empty if unknown.
    data: Mapping[str, Any]  # The data set.
    results: Mapping[str, PhaseRecord]  # By phase.
    epochs: tuple[PhaseRecord, ...]  # In order of time.
    spans: tuple[SpanRecord, ...]  # Every measured span, in order of time; energies are gross.

    @property
    def whole(self) -> list[SpanRecord]:
        """The spans that make up the whole run."""
        return [span for span in self.spans if span.name in WHOLE_SPANS]

    def spans_of(self, phase: str, index: int = -1) -> list[SpanRecord]:
        """Return the epoch spans of a phase, or of one epoch of it."""
        return [
            span
            for span in self.spans
            if span.name == "epoch"
            and span.attributes["phase"] == phase
            and index in (-1, span.attributes.get("index"))
        ]


def study_part(stored: StoredStudyPart, data: Mapping[str, Any]) -> StudyPart:
    """Make the part of a study of what was checked, and of everything that was recorded."""
    results = {
        phase: _phase({**one, "phase": phase}, {**data["results"][phase], "phase": phase})
        for phase, one in stored["results"].items()
    }
    return StudyPart(
        name=stored["study"],
        is_idle=stored["idle"],
        block=stored["block"],
        order=stored["order"],
        repeat=stored["repeat"],
        seed=stored["seed"],
        data=stored["data"],
        phases=stored["phases"],
        characteristics=data["characteristics"] or {},
        results=results,
        epochs=tuple(map(_phase, stored["epochs"], data["epochs"])),
        spans=tuple(
            SpanRecord(
                name=span["name"],
                attributes=span["attributes"],
                start_ns=span["start_ns"],
                stop_ns=span["stop_ns"],
                energy=_energy(span["energy"]),
            )
            for span in stored["measured"]
        ),
    )


def _phase(stored: Mapping[str, Any], data: Mapping[str, Any]) -> PhaseRecord:
    """Make a phase of its checked part and of everything that was recorded."""
    own = {name: stored[name] for name in ("phase", "index", "complete") if name in stored}
    values = {name: value for name, value in data.items() if name not in {*own, "energy"}}
    return PhaseRecord(energy=_energy(stored["energy"]), values=values, **own)


def _energy(stored: StoredEnergy | None) -> Energy:
    return Energy(duration_s=math.nan) if stored is None else Energy.of_stored(stored)
