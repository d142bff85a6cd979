"""List runs with what distinguishes them, and choose some by name, tag, host, age and status."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from joulelab.runs.record import Run
from joulelab.runs.shared_machine import has_busy_idle, is_shared

LEAST_GAP = 0.01
"""Time without readings is mentioned from this share of the duration on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; everything that is given must apply."""

    name: str | None = None
    host: str | None = None
    tags: tuple[str, ...] = ()  # Each ``KEY`` or ``KEY=VALUE``; the value may be a pattern.
    since_unix_s: float | None = None  # Started at this time or later.
    is_failed: bool = False  # Failed, or whose end was not recorded.

    def matches(self, run: Run) -> bool:
        """Report whether a run is one of these."""
        if self.name is not None and not fnmatchcase(run.name, self.name):
            return False
        if self.host is not None and not fnmatchcase(run.host, self.host):
            return False
        if self.since_unix_s is not None and not run.started_unix_s >= self.since_unix_s:
            return False
        if self.is_failed and run.status == "done":
            return False
        return all(_has_tag(run.tags, tag) for tag in self.tags)


def newest_first(runs: Iterable[Run]) -> list[Run]:
    """Sort runs by their start, those of an unknown time last; leave out idle runs of studies."""
    measured = [run for run in runs if run.study is None or not run.study.is_idle]
    return sorted(
        measured,
        key=lambda run: (math.isnan(run.started_unix_s), -_or_zero(run.started_unix_s), run.id),
    )


def run_caveats(run: Run) -> list[str]:
    """Return in a few words each what restricts the use of a run; empty if nothing does."""
    energy = run.energy
    is_measured = bool(energy.components)
    found = {
        _ending(run): run.status != "done",
        "not measured": not is_measured,
        "shared": is_shared(energy),
        "busy idle": has_busy_idle(energy),
        "gaps": is_measured and energy.gap_s > LEAST_GAP * run.duration_s,
    }
    return [text for text, applies in found.items() if applies]


def run_row(run: Run) -> dict[str, Any]:
    """Return a run as plain values for JSON and CSV; unknown values are ``None`` or NaN."""
    low_j, high_j = run.energy.interval_j
    return {
        "id": run.id,
        "name": run.name,
        "kind": run.kind,
        "status": run.status,
        "exit_code": run.exit_code,
        "command": shlex.join(run.command),
        "started_unix_s": run.started_unix_s,
        "duration_s": run.duration_s,
        "gross_j": run.energy.gross_j,
        "gross_low_j": low_j,
        "gross_high_j": high_j,
        "net_j": run.energy.net_j,
        "host": run.host,
        "project": run.project,
        "phase": run.phase,
        "tags": dict(run.tags),
        "caveats": run_caveats(run),
        "directory": str(run.directory),
    }


def _ending(run: Run) -> str:
    if run.signal is not None:
        return f"signal {run.signal}"
    return f"exit {run.exit_code}" if run.exit_code else run.status


def _has_tag(tags: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in tags and (not equals or fnmatchcase(tags[key], value))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
