"""Which cells a plan has, what they are called, and in which order they run."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from joulelab.study.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """One combination of levels. ``device`` is as the plan wishes it, so it may be ``auto``."""

    model: str
    batch_size: int
    precision: str
    memory_format: str
    compile: bool
    optimizer: str
    input_path: str
    device: str
    dataset: str

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of a study: a combination of levels in a block.

    Attributes:
        run_id: Names its directory, as ``r0-resnet18-b128-3fa2``.
        block: From 0; repeat and block are the same number.
        order: Its place within the block, from 0.
        factors: The combination.
    """

    run_id: str
    block: int
    order: int
    factors: Factors


def combinations(plan: Plan) -> list[Factors]:
    """The product of the models and all levels, the last factor varying fastest."""
    levels = plan.factors.model_dump()
    return [
        Factors(model=model, dataset=plan.data.name, **dict(zip(levels, values, strict=True)))
        for model in plan.models
        for values in itertools.product(*levels.values())
    ]


def blocks(plan: Plan) -> list[list[Cell]]:
    """Randomised complete blocks: each holds every combination once, in an order of its own.

    The order depends on the plan's seed and the block alone. It is stable over Python's versions
    and platforms, since :meth:`random.Random.random` is guaranteed to be for a text as seed.
    """
    named = _named(combinations(plan))
    return [_block(named, plan.seed, index) for index in range(plan.repeats)]


def _block(named: list[tuple[str, Factors]], seed: int, index: int) -> list[Cell]:
    draw = random.Random(f"{seed}/{index}")
    shuffled = sorted(named, key=lambda _: draw.random())
    return [
        Cell(run_id=f"r{index}-{name}", block=index, order=place, factors=factors)
        for place, (name, factors) in enumerate(shuffled)
    ]


def _named(all_factors: list[Factors]) -> list[tuple[str, Factors]]:
    digests = [digest(factors.to_json()) for factors in all_factors]
    length = next(n for n in range(4, 65) if len({one[:n] for one in digests}) == len(digests))
    return [
        (f"{slug(factors.model)}-b{factors.batch_size}-{one[:length]}", factors)
        for factors, one in zip(all_factors, digests, strict=True)
    ]


def digest(factors: Mapping[str, Any]) -> str:
    """Hexadecimal digits that tell combinations apart."""
    return hashlib.sha256(json.dumps(factors, sort_keys=True).encode()).hexdigest()


def slug(text: str) -> str:
    """Letters and digits of a name, for a directory.

    Example:
        >>> slug("torchvision:ResNet_50")
        'torchvision-resnet-50'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48]
