"""Proposals of settings from Optuna, where there are too many combinations to consider them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.tune.probes import Knob, Level
from joulelab.tune.surface import is_ordered

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Cell = tuple[Level, ...]
"""A level of each knob, in the order of the knobs."""
PROPOSALS = 8


def propose(
    knobs: Sequence[Knob], cells: Sequence[Cell], values: Floats, excess: Floats, seed: int
) -> list[Cell]:
    """Propose settings by the tree-structured Parzen estimator under a constraint.

    Args:
        knobs: The knobs; numbers are searched in their order, other levels as categories.
        cells: Settings whose value is known.
        values: What is to be minimised, shape (cells,).
        excess: Amount by which the constraint is violated; 0 or less if it is met. Shape (cells,).
        seed: Of the sampler.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"{math.prod(len(knob.levels) for knob in knobs):,} combinations of levels need Optuna",
            why=str(error),
            hint='install it with `pip install "joulelab[tune]"`, or give fewer levels',
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, BaseDistribution] = {
        knob.name: optuna.distributions.IntDistribution(0, len(knob.levels) - 1)
        if is_ordered(knob)
        else optuna.distributions.CategoricalDistribution(knob.levels)
        for knob in knobs
    }
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    for cell, value, over in zip(cells, values.tolist(), excess.tolist(), strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                params={
                    knob.name: knob.levels.index(level) if is_ordered(knob) else level
                    for knob, level in zip(knobs, cell, strict=True)
                },
                distributions=distributions,
                value=value,
                constraints={"slowdown": over},
            )
        )
    found: list[dict[str, Any]] = [study.ask(distributions).params for _ in range(PROPOSALS)]
    return [
        tuple(knob.levels[one[knob.name]] if is_ordered(knob) else one[knob.name] for knob in knobs)
        for one in found
    ]
