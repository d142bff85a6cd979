"""Steps that can be run, and steps that were."""

from __future__ import annotations

import re
from typing import NamedTuple

from joulelab.errors import UserError


class Case(NamedTuple):
    """A step that can be run.

    Attributes:
        model: A name as :mod:`joulelab.models.registry` takes it.
        phase: ``"train"`` or ``"infer"``.
        batch_size: Samples in the step.
        input_shape: Of one sample.
    """

    model: str
    phase: str
    batch_size: int
    input_shape: tuple[int, ...]

    @property
    def input(self) -> str:
        """The shape as text, like ``3x32x32``."""
        return "x".join(map(str, self.input_shape))


class Measurement(NamedTuple):
    """A step that was run.

    Attributes:
        case: What was run.
        duration_s: Of a step, the median over repeats.
        energy_j: Gross, of a step, the median over repeats.
        idle_power_w: Of what was metered; NaN where it is not known.
        repeats: Rows that it stands for.
    """

    case: Case
    duration_s: float
    energy_j: float
    idle_power_w: float
    repeats: int


def parse_input(text: str) -> tuple[int, ...]:
    """The shape of one sample.

    Raises:
        UserError: It is not written like ``3x32x32``, or ``128`` for tokens.

    Example:
        >>> parse_input("3x224x224"), parse_input("128")
        ((3, 224, 224), (128,))
    """
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){0,3}", text, re.ASCII):
        raise UserError(
            f"{text!r} is no shape of a sample",
            hint="write CHANNELSxHEIGHTxWIDTH, as 3x32x32, or the number of tokens, as 128",
        )
    return tuple(map(int, text.split("x")))
