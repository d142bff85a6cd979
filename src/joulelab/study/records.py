"""What ``run.json`` says. Imports no torch.

The parent knows the frame (which run this is, on which machine); the worker adds what happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from joulelab.runs.store import SCHEMA
from joulelab.runs.whole_spans import WHOLE_SPANS
from joulelab.study.order import Cell
from joulelab.study.plan import Plan


def cell_frame(plan: Plan, cell: Cell, ready: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a cell's record that is known before it runs.

    Args:
        plan: The study's plan.
        cell: Which cell.
        ready: What the worker said of itself; see :mod:`joulelab.study.worker`.
    """
    factors = cell.factors.to_json()
    factors["resolved_device"] = ready["devices"][cell.factors.device]
    return _frame(plan, cell.run_id, "cell", cell.block, ready) | {
        "order": cell.order,
        "factors": factors,
        "phases": list(plan.phases),
        "seed": plan.seed + cell.block,
    }


def idle_frame(plan: Plan, run_id: str, block: int, ready: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an idle run's record that is known before it runs."""
    return _frame(plan, run_id, "idle", block, ready) | {"order": None, "phases": ["idle"]}


def _frame(
    plan: Plan, run_id: str, kind: str, block: int, ready: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run_id": run_id,
        "kind": kind,
        "study": plan.name,
        "block": block,
        "repeat": block,
        "boot_id": boot_id(),
        "machine": ready["machine"],
        "data": ready["data"],
    }


def failed_body(
    kind: str, reason: str, *, started_unix_s: float, stopped_unix_s: float
) -> dict[str, Any]:
    """What happened, for a run whose worker could not say it."""
    return {
        "status": "failed",
        "failure": {"kind": kind, "reason": reason},
        "started_unix_s": started_unix_s,
        "stopped_unix_s": stopped_unix_s,
        "settings": {},
        "characteristics": None,
        "spans": [],
        "results": {},
        "epochs": [],
    }


def spent_j(run: Mapping[str, Any]) -> float | None:
    """Gross energy of all that a run did, warm-up included; ``None`` when it was not measured."""
    return _sum(_figure(span, "gross_j") for span in run["spans"] if span["name"] in WHOLE_SPANS)


def phase_figures(run: Mapping[str, Any], phase: str) -> tuple[float | None, float | None]:
    """Duration (s) and gross energy (J) of a phase's measured epochs."""
    energy = run["results"].get(phase, {}).get("energy") or {}
    return energy.get("duration_s"), energy.get("gross_j")


def _figure(span: Mapping[str, Any], name: str) -> float | None:
    value = (span["energy"] or {}).get(name)
    return None if value is None else float(value)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    if not known or any(value is None for value in known):
        return None
    return sum(value for value in known if value is not None)


def boot_id() -> str | None:
    """Identifies this boot of the kernel, within which CLOCK_MONOTONIC is one clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
