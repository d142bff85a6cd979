"""The cells of a plan: what they are called, their order, and what their records begin with."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joulelab.format import slug
from joulelab.sensors.host import boot_id
from joulelab.study.plan import Plan

IDLE_WAIT_S = 30.0
"""Longest time for which an idle measurement waits for other processes to become idle."""

EMPTY_BODY: dict[str, Any] = {
    "settings": {},
    "characteristics": None,
    "measured": [],
    "results": {},
    "epochs": [],
}
"""What a run without any measurement adds to its record."""

Factors = Mapping[str, Any]
"""A model and a level of each of :data:`joulelab.runs.FACTORS`; ``device`` may be ``auto``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of a study: a combination of levels in a block, at a position in its order.

    ``run_id`` names its directory, for example ``r0-resnet18-b128-3fa2``.
    """

    run_id: str
    block: int
    order: int
    factors: Factors


def combinations(plan: Plan) -> list[Factors]:
    """Return the product of the models and all levels, the last factor varying fastest."""
    levels = plan.factors.levels()
    return [
        {"model": model, **dict(zip(levels, values, strict=True)), "dataset": plan.data.name}
        for model in plan.models
        for values in itertools.product(*levels.values())
    ]


def blocks(plan: Plan) -> list[list[Cell]]:
    """Return randomised complete blocks: each has every combination once, in its own order.

    The order depends on the plan's seed and the block alone. It is the same on all versions of
    Python, since :meth:`random.Random.random` is guaranteed to be for a text as seed.
    """
    named = _named(combinations(plan))
    drawn = []
    for index in range(plan.repeats):
        draw = random.Random(f"{plan.seed}/{index}")
        shuffled = sorted(named, key=lambda _, draw=draw: draw.random())  # type: ignore[misc]
        drawn.append(
            [
                Cell(run_id=f"r{index}-{name}", block=index, order=order, factors=factors)
                for order, (name, factors) in enumerate(shuffled)
            ]
        )
    return drawn


def _named(all_factors: list[Factors]) -> list[tuple[str, Factors]]:
    digests = [digest(factors) for factors in all_factors]
    length = next(n for n in range(4, 65) if len({one[:n] for one in digests}) == len(digests))
    return [
        (f"{run_name(factors)}-{one[:length]}", factors)
        for factors, one in zip(all_factors, digests, strict=True)
    ]


def run_name(factors: Factors) -> str:
    """Name a run after its model and batch size.

    Example:
        >>> run_name({"model": "torchvision:ResNet_50", "batch_size": 8}), run_name({"model": "a"})
        ('torchvision-resnet-50-b8', 'a')
    """
    batch = f"-b{factors['batch_size']}" if "batch_size" in factors else ""
    return f"{slug(factors['model'].lower().replace('.', '-'))[:48]}{batch}"


def digest(factors: Factors) -> str:
    """Return hexadecimal digits that differ between combinations."""
    return hashlib.sha256(json.dumps(dict(factors), sort_keys=True).encode()).hexdigest()


def cell_frame(plan: Plan, cell: Cell, ready: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a cell's record that is known before it runs.

    ``ready`` is what the worker answered to ``prepare``; see :mod:`joulelab.study.worker`.
    """
    device = ready["devices"][cell.factors["device"]]
    return _frame(plan, cell.run_id, cell.block, ready) | {
        "idle": False,
        "order": cell.order,
        "model": cell.factors["model"],
        "factors": {**cell.factors, "resolved_device": device},
        "phases": list(plan.phases),
        "seed": plan.seed + cell.block,
    }


def idle_frame(plan: Plan, run_id: str, block: int, ready: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an idle run's record that is known before it runs."""
    return _frame(plan, run_id, block, ready) | {"idle": True, "order": None, "phases": ["idle"]}


def _frame(plan: Plan, run_id: str, block: int, ready: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": run_id,
        "kind": "study",
        "name": f"{plan.name}/{run_id}",
        "study": plan.name,
        "block": block,
        "repeat": block,
        "host": ready["machine"]["host"],
        "boot_id": boot_id(),
        "machine": ready["machine"],
        "data": ready["data"],
        "seed": None,
    }


def failed_body(
    kind: str, reason: str, *, started_unix_s: float, ended_unix_s: float
) -> dict[str, Any]:
    """Return the rest of the record of a run whose worker died."""
    return EMPTY_BODY | {
        "status": "failed",
        "failure": {"kind": kind, "reason": reason},
        "started_unix_s": started_unix_s,
        "ended_unix_s": ended_unix_s,
    }
