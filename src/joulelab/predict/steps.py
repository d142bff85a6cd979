"""Steps of named models, each traced once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from joulelab.models.registry import build_model
from joulelab.models.weightless import weightless
from joulelab.predict.cases import Case
from joulelab.predict.operators import Step
from joulelab.predict.tracing import trace_step

Told = Callable[[str], None]
"""Told of each model as it is begun."""


def steps_of(cases: Iterable[Case], *, classes: int = 10, told: Told | None = None) -> list[Step]:
    """The traced steps of cases, in their order. A model is built once.

    Args:
        cases: What to trace.
        classes: Classes that the models tell apart.
        told: Of each model.

    Raises:
        UserError: A model is not known or does not take the sample.
    """
    cases = list(cases)
    found: dict[Case, Step] = {}
    for model in dict.fromkeys((case.model, case.input_shape[0]) for case in cases):
        name, channels = model
        if told is not None:
            told(name)
        with weightless():
            built = build_model(name, num_classes=classes, in_channels=channels)
        for case in cases:
            if (case.model, case.input_shape[0]) == model and case not in found:
                found[case] = trace_step(
                    built, case.phase, case.batch_size, case.input_shape, name=name
                )
    return [found[case] for case in cases]
