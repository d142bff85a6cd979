"""What is logged of an epoch or a stage, by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.recording.spans import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """An epoch that is over.

    Attributes:
        span: The whole epoch.
        epoch: What the framework calls the end of it in its logs.
        step: The framework's count of optimiser steps at its end.
        samples: How many this host trained on in it; NaN where that is not known.
        validations: The spans of validation within it, and after it until the next one begins.
    """

    span: Span
    epoch: float
    step: int
    samples: float = math.nan
    validations: Sequence[Span] = ()


def epoch_figures(epoch: Epoch, whole: Energy, validations: Sequence[Energy]) -> dict[str, float]:
    """An epoch's figures. One that is not known is left out.

    ====================== ================================================================
    ``epoch_gross_j``      energy of the epoch, validation within it included
    ``epoch_low_j``        lower end of its 95 % interval
    ``epoch_high_j``       upper end
    ``epoch_net_j``        without idle power
    ``mean_power_w``       gross energy over the epoch's length
    ``validate_gross_j``   energy of the validations in the epoch, and between it and the next
    ``train_j_per_sample`` gross energy of the epoch, less validation within it, over samples
    ====================== ================================================================
    """
    low_j, high_j = whole.interval_j
    within_j = sum(
        energy.gross_j
        for span, energy in zip(epoch.validations, validations, strict=True)
        if span.start_ns < (epoch.span.stop_ns or 0)
    )
    return known(
        {
            "epoch_gross_j": whole.gross_j,
            "epoch_low_j": low_j,
            "epoch_high_j": high_j,
            "epoch_net_j": whole.net_j,
            "mean_power_w": whole.mean_power_w,
            "validate_gross_j": sum(e.gross_j for e in validations) if validations else math.nan,
            "train_j_per_sample": (whole.gross_j - within_j) / (epoch.samples or math.nan),
        }
    )


def stage_energy(span: Span) -> Energy | None:
    """The energy of a stage that is over; ``None``, and a warning, where it cannot be had."""
    try:
        return span.energy
    except Exception as error:  # noqa: BLE001  (whatever it is, the training goes on)
        warnings.warn(f"the energy of {span.name} is not known: {error}", RuntimeWarning, 3)
        return None


def stage_figures(name: str, energy: Energy | None) -> dict[str, float]:
    """The figures of a stage, as ``fit`` or ``test``, that are known."""
    if energy is None:
        return {}
    low_j, high_j = energy.interval_j
    return known(
        {
            f"{name}_gross_j": energy.gross_j,
            f"{name}_low_j": low_j,
            f"{name}_high_j": high_j,
            f"{name}_net_j": energy.net_j,
            f"{name}_duration_s": energy.duration_s,
        }
    )


def known(row: dict[str, float]) -> dict[str, float]:
    """Without what is not known: absent is not zero, and some loggers refuse NaN."""
    return {name: value for name, value in row.items() if math.isfinite(value)}
