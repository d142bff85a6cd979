"""The cells of a plan: what they are called, their order, and what their records begin with."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulelab.format import join_words, slug
from joulelab.sensors.host import boot_id
from joulelab.study.plan import Plan

IDLE_WAIT_S = 30.0
"""Longest time for which an idle measurement waits for other processes to become idle."""

MOST_CHARACTERS = 60
"""Longer names of cells have digits of a hash instead of their levels."""

_LEVEL_TEXTS = {
    "batch_size": "b{}",
    "power_limit_w": "{:g}w",
    "clock_mhz": "{:g}mhz",
    "prompt_tokens": "in{}",
    "output_tokens": "out{}",
    "cache": "cache-{}",
}
"""How names show the levels that do not explain themselves."""

EMPTY_BODY: dict[str, Any] = {
    "settings": {},
    "characteristics": None,
    "measured": [],
    "results": {},
    "epochs": [],
}
"""The fields of the record of a run without any measurement."""

Factors = Mapping[str, Any]
"""A model and a level of each of :data:`joulelab.runs.FACTORS`; ``device`` may be ``auto``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of a study: a combination of levels in a block, at a position in its order.

    ``run_id`` names its directory, for example ``r0-resnet18-b128-bf16``; ``label`` is the same, or
    adds the levels that distinguish it from the other cells if its name does not show them.
    """

    run_id: str
    block: int
    order: int
    factors: Factors
    label: str


def combinations(plan: Plan) -> list[Factors]:
    """Return the product of the models and all levels, the last factor varying fastest."""
    levels = plan.factors.levels()
    return [
        {"model": model, **dict(zip(levels, values, strict=True)), "dataset": plan.data.name}
        for model in plan.models
        for values in itertools.product(*levels.values())
    ]


def blocks(plan: Plan, recorded: Collection[str] = ()) -> list[list[Cell]]:
    """Return randomised complete blocks: each has every combination once, in its own order.

    The order depends on the plan's seed and the block alone. It is the same on all versions of
    Python, since :meth:`random.Random.random` is guaranteed to be for a text as seed.

    Args:
        plan: The plan.
        recorded: Names of the runs in the directory of the study. Cells are named like those, if
            an earlier version started the study.
    """
    every = combinations(plan)
    hashed = _hashed_names(every)
    names = _names_with_levels(plan, every)
    if not names or any(f"r{n}-{name}" in recorded for n in range(plan.repeats) for name in hashed):
        names = hashed
    named = list(zip(names, every, strict=True))
    drawn = []
    for index in range(plan.repeats):
        draw = random.Random(f"{plan.seed}/{index}")
        shuffled = sorted(named, key=lambda _, draw=draw: draw.random())  # type: ignore[misc]
        drawn.append(
            [
                Cell(
                    run_id=f"r{index}-{name}",
                    block=index,
                    order=order,
                    factors=factors,
                    label=f"r{index}-{name}{_levels_left_out(plan, name, factors)}",
                )
                for order, (name, factors) in enumerate(shuffled)
            ]
        )
    return drawn


def _names_with_levels(plan: Plan, every: Sequence[Factors]) -> list[str]:
    """Name combinations after their model and levels; none if a name would be unusable."""
    names = [
        slug("-".join([_model_name(factors["model"]), *_varying_levels(plan, factors)])).lower()
        for factors in every
    ]
    are_short = all(len(name) <= MOST_CHARACTERS for name in names)
    are_free = not any(name.startswith("idle-") for name in names)
    return names if are_short and are_free and len({*names}) == len(names) else []


def _hashed_names(every: Sequence[Factors]) -> list[str]:
    digests = [digest(factors) for factors in every]
    length = next(n for n in range(4, 65) if len({one[:n] for one in digests}) == len(digests))
    return [
        f"{run_name(factors)}-{one[:length]}" for factors, one in zip(every, digests, strict=True)
    ]


def _varying_levels(plan: Plan, factors: Factors) -> list[str]:
    """Write the levels that distinguish a combination, except its model."""
    return [level_text(name, factors[name]) for name in plan.varying_factors]


def _levels_left_out(plan: Plan, name: str, factors: Factors) -> str:
    """Write the levels that a name does not show, in brackets."""
    levels = [text for text in _varying_levels(plan, factors) if slug(text).lower() not in name]
    return f" ({join_words(levels)})" if levels else ""


def level_text(factor: str, level: Any) -> str:
    """Write a level so that it explains itself.

    Example:
        >>> level_text("batch_size", 64), level_text("compile", False), level_text("device", "cpu")
        ('b64', 'no-compile', 'cpu')
        >>> level_text("power_limit_w", 250.0), level_text("cache", "none")
        ('250w', 'cache-none')
    """
    if isinstance(level, bool):
        return factor if level else f"no-{factor}"
    return _LEVEL_TEXTS.get(factor, "{}").format(level)


def run_name(factors: Factors) -> str:
    """Name a run after its model and batch size.

    Example:
        >>> run_name({"model": "torchvision:ResNet_50", "batch_size": 8}), run_name({"model": "a"})
        ('torchvision-resnet-50-b8', 'a')
    """
    batch = f"-b{factors['batch_size']}" if "batch_size" in factors else ""
    return f"{_model_name(factors['model'])}{batch}"


def _model_name(model: str) -> str:
    return slug(model.lower().replace(".", "-"))[:48]


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
