"""Metrics of epochs and stages, under the names that are logged."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from joulelab.batches import ATTRIBUTES, UNKNOWN_TOKENS, Tokens
from joulelab.carbon.costs import J_PER_KWH
from joulelab.carbon.site import local_costs

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.recording.spans import Span

Metrics = dict[str, float]

J_PER_WH = J_PER_KWH / 1000


class Epoch(NamedTuple):
    """A finished epoch, with its name in the logs, and the validations until the next one."""

    span: Span
    epoch: float
    step: int
    samples: float
    validations: Sequence[Span]


def epoch_metrics(
    epoch: Epoch,
    whole: Energy,
    validations: Sequence[Energy],
    tokens: Tokens = UNKNOWN_TOKENS,
    validate_tokens: Tokens = UNKNOWN_TOKENS,
) -> Metrics:
    """Return the metrics of an epoch, which trained on some tokens. Unknown ones are left out.

    ====================== ================================================================
    ``epoch_gross_j``      energy of the epoch, including validation within it
    ``epoch_low_j``        lower end of its 95 % interval
    ``epoch_high_j``       upper end
    ``epoch_net_j``        energy without idle power
    ``epoch_job_j``        this job's part of the energy of the machine, if it is known
    ``epoch_carbon_g``     CO2-equivalent at the configured site
    ``mean_power_w``       mean gross power
    ``validate_gross_j``   energy of validation in the epoch, and between it and the next
    ``train_j_per_sample`` gross energy of the epoch per sample, without validation
    ``train_j_per_token``  the same per token
    ====================== ================================================================

    In addition there are the numbers of tokens, see :func:`token_metrics`, and
    ``validate_j_per_token``.
    """
    within_j = sum(
        energy.gross_j
        for span, energy in zip(epoch.validations, validations, strict=True)
        if span.start_ns < (epoch.span.stop_ns or 0)
    )
    train_j = whole.gross_j - within_j
    validate_j = sum(energy.gross_j for energy in validations) if validations else math.nan
    values = {
        "mean_power_w": whole.mean_power_w,
        "validate_gross_j": validate_j,
        "train_j_per_sample": train_j / (epoch.samples or math.nan),
        "train_j_per_token": train_j / (tokens.processed or math.nan),
        "validate_j_per_token": validate_j / (validate_tokens.processed or math.nan),
    }
    numbers = token_metrics("train", tokens) | token_metrics("validate", validate_tokens)
    return energy_metrics("epoch", whole, epoch.span) | known(values) | numbers


def token_metrics(name: str, tokens: Tokens) -> Metrics:
    """Return numbers of tokens: ``train_tokens``, ``train_padding_tokens``, ...

    Example:
        >>> token_metrics("train", Tokens(100.0, 28.0))
        {'train_tokens': 100.0, 'train_padding_tokens': 28.0}
    """
    numbers = zip(ATTRIBUTES, tokens, strict=True)
    return known({f"{name}_{attribute}": number for attribute, number in numbers})


def stage_energy(span: Span) -> Energy | None:
    """Return the energy of a finished stage; ``None``, with a warning, if it is unknown."""
    try:
        return span.energy
    except Exception as error:  # noqa: BLE001  (the training must go on, whatever fails)
        warnings.warn(f"the energy of {span.name} is unknown: {error}", RuntimeWarning, 3)
        return None


def stage_metrics(
    name: str, span: Span, energy: Energy | None, tokens: Tokens = UNKNOWN_TOKENS
) -> Metrics:
    """Return the metrics of a stage, for example ``fit`` or ``test``."""
    if energy is None:
        return {}
    per_token = energy.per(tokens.processed)
    values = {
        f"{name}_duration_s": energy.duration_s,
        f"{name}_j_per_token": per_token.value,
        f"{name}_j_per_token_low": per_token.low,
        f"{name}_j_per_token_high": per_token.high,
    }
    return energy_metrics(name, energy, span) | known(values) | token_metrics(name, tokens)


def energy_metrics(name: str, energy: Energy, span: Span) -> Metrics:
    """Return the metrics of an energy that was used until the end of a span."""
    low_j, high_j = energy.interval_j
    now_unix_s, now_ns = time.time(), time.monotonic_ns()
    stopped_unix_s = now_unix_s - (now_ns - (span.stop_ns or now_ns)) * 1e-9
    costs = local_costs(
        energy,
        started_unix_s=stopped_unix_s - energy.duration_s,
        stopped_unix_s=stopped_unix_s,
    )
    values = {
        "gross_j": energy.gross_j,
        "low_j": low_j,
        "high_j": high_j,
        "net_j": energy.net_j,
        "job_j": energy.job_j,
        "carbon_g": costs.carbon_g,
    }
    return known({f"{name}_{key}": value for key, value in values.items()})


def known(metrics: Metrics) -> Metrics:
    """Leave out unknown metrics: absent is not zero, and some loggers refuse NaN."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def in_wh(metrics: Metrics) -> Metrics:
    """Return gross energies in watt-hours, too.

    Example:
        >>> in_wh({"epoch_gross_j": 7200.0, "epoch_net_j": 3600.0})
        {'epoch_gross_wh': 2.0}
    """
    return {
        f"{name.removesuffix('_j')}_wh": value / J_PER_WH
        for name, value in metrics.items()
        if name.endswith("_gross_j")
    }
