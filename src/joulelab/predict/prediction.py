"""Predict time and energy of steps that were never run, and rank models by them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from joulelab.format import percent, quantity
from joulelab.models.characteristics import Characteristics, characterize, weightless
from joulelab.models.registry import build_model
from joulelab.predict.coefficients import Datasheet
from joulelab.predict.device_model import (
    UNKNOWN_DISCREPANCY,
    StepEstimates,
    coefficient_variance,
    estimate_steps,
    extrapolation_variance,
)
from joulelab.predict.hardware_profile import HardwareProfile, doublings_beyond
from joulelab.predict.step_tracing import trace_cases
from joulelab.predict.steps import KINDS, Case, OperatorTable, TracedStep, tabulate_operators
from joulelab.uncertain import is_determined

NEW_KIND_SHARE = 0.2
"""A kind of operator is noted if its share of the device time exceeds the fitted one by this."""

ESTIMATORS: Mapping[str, str] = {
    "predicted_j": "predicted energy",
    "macs": "MACs",
    "macs_per_parameter": "MACs per parameter",
    "parameters": "parameters",
}
"""What models can be ranked by: this prediction, and the three estimators of the paper."""


@dataclass(frozen=True, slots=True)
class OperatorShare:
    """The operators of one kind in a step."""

    kind: str
    launches: int
    flops: float
    bytes: float
    device_s: float
    energy_j: float  # above idle


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted time and gross energy of one step, with the ends of their 95 % intervals."""

    case: Case
    energy_per_step_j: float
    energy_low_j: float
    energy_high_j: float
    seconds_per_step: float
    seconds_low: float
    seconds_high: float
    host_s: float  # time that the host needs to launch the work
    device_s: float  # time that the device needs to do it
    operators: tuple[OperatorShare, ...]  # by kind
    notes: tuple[str, ...]  # how the step differs from those that the profile was fitted to

    @property
    def energy_per_sample_j(self) -> float:
        """Gross energy per sample."""
        return self.energy_per_step_j / self.case.batch_size

    @property
    def per_token(self) -> dict[str, float]:
        """Energy (J) and time (s) per token with their 95 % intervals; for language models."""
        token, count = self.case.token, self.case.tokens
        return {
            f"j_per_{token}": self.energy_per_step_j / count,
            f"j_per_{token}_low": self.energy_low_j / count,
            f"j_per_{token}_high": self.energy_high_j / count,
            f"s_per_{token}": self.seconds_per_step / count,
            f"s_per_{token}_low": self.seconds_low / count,
            f"s_per_{token}_high": self.seconds_high / count,
        }

    @property
    def has_energy(self) -> bool:
        """Whether the energy is known within a factor of 10; otherwise it is not determined."""
        return is_determined(self.energy_per_step_j, self.energy_low_j, self.energy_high_j)

    @property
    def has_duration(self) -> bool:
        """Whether the time is known within a factor of 10."""
        return is_determined(self.seconds_per_step, self.seconds_low, self.seconds_high)

    @property
    def power_w(self) -> float:
        """Mean power over the step."""
        return self.energy_per_step_j / self.seconds_per_step

    def to_row(self) -> dict[str, Any]:
        """Return the prediction as a row of a table."""
        return {
            "model": self.case.model,
            "phase": self.case.phase,
            "batch_size": self.case.batch_size,
            "input": self.case.input,
            "energy_per_step_j": self.energy_per_step_j,
            "energy_low_j": self.energy_low_j,
            "energy_high_j": self.energy_high_j,
            "seconds_per_step": self.seconds_per_step,
        } | (self._token_row() if self.case.counts_tokens else {})

    def _token_row(self) -> dict[str, Any]:
        case = self.case
        columns = {"output_tokens": case.output_tokens, "precision": case.precision}
        return columns | {
            name.replace(case.token, "token"): value for name, value in self.per_token.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return the prediction with its details for JSON."""
        details = asdict(self)
        del details["case"]
        return self.to_row() | details | (self.per_token if self.case.counts_tokens else {})


@dataclass(frozen=True, slots=True)
class RankedModel:
    """A model with the prediction for one step."""

    prediction: Prediction
    characteristics: Characteristics

    @property
    def j_per_1000_samples(self) -> float:
        """Gross energy of 1,000 samples: the same work for every model."""
        return 1000 * self.prediction.energy_per_sample_j

    def to_json(self) -> dict[str, Any]:
        """Return the model for JSON."""
        row = self.prediction.to_row()
        names = ("energy_per_step_j", "energy_low_j", "energy_high_j", "seconds_per_step")
        return {
            "model": row["model"],
            "j_per_1000_samples": self.j_per_1000_samples,
            **{name: row[name] for name in names},
            "macs": self.characteristics.macs,
            "macs_per_parameter": self.characteristics.macs_per_parameter,
            "parameters": self.characteristics.parameters,
        }


def predict(
    cases: Sequence[Case], profile: HardwareProfile, *, classes: int = 10
) -> list[Prediction]:
    """Predict time and energy of steps, in the order of the cases.

    Args:
        cases: Steps to predict.
        profile: Profile of the device.
        classes: Number of classes of the models.

    Raises:
        UserError: A model is unknown or does not accept the sample.

    Example:
        >>> from joulelab.predict.hardware_profile import load_profile
        >>> case = Case("LeNet", "infer", 128, (3, 32, 32))
        >>> (found,) = predict([case], load_profile("h100"))
        >>> found.energy_low_j < found.energy_per_step_j < found.energy_high_j
        True
    """
    steps = trace_cases(cases, classes=classes, served=bool(profile.server))
    return predict_steps(cases, steps, profile)


def predict_steps(
    cases: Sequence[Case], steps: Sequence[TracedStep], profile: HardwareProfile
) -> list[Prediction]:
    """Predict time and energy of steps whose operators are known; see :func:`predict`."""
    sheet, fitted = profile.datasheet, profile.fitted_coefficients
    operators = tabulate_operators(steps, sheet)
    idle_w = np.full(len(cases), profile.idle_power_w)
    found = estimate_steps(operators, fitted.logs, sheet, idle_w)
    discrepancy = [[profile.duration_discrepancy], [profile.energy_discrepancy]]
    unknown = [UNKNOWN_DISCREPANCY * _is_unseen(case, profile) for case in cases]
    beyond = np.array([_doublings(case, profile) for case in cases])
    variance = coefficient_variance(operators, fitted, sheet, idle_w)
    variance += np.square(discrepancy) + np.square(unknown)
    variance += extrapolation_variance(found, sheet, idle_w, beyond)
    factor = np.exp(profile.coverage_factor * np.sqrt(variance))
    shares = _operator_shares(operators, found)
    return [
        Prediction(
            case=case,
            energy_per_step_j=float(found.energy_j[index]),
            energy_low_j=float(found.energy_j[index] / factor[1, index]),
            energy_high_j=float(found.energy_j[index] * factor[1, index]),
            seconds_per_step=float(found.duration_s[index]),
            seconds_low=float(found.duration_s[index] / factor[0, index]),
            seconds_high=float(found.duration_s[index] * factor[0, index]),
            host_s=float(found.host_s[index]),
            device_s=float(found.device_s[index]),
            operators=shares[index],
            notes=(
                *_memory_notes(steps[index], sheet),
                *_notes(case, profile, shares[index], found.host_s[index], found.device_s[index]),
            ),
        )
        for index, case in enumerate(cases)
    ]


def rank(
    cases: Sequence[Case], profile: HardwareProfile, *, classes: int = 10
) -> list[RankedModel]:
    """Rank models, one case each, by predicted energy, the most efficient first.

    Arguments and errors are those of :func:`predict`.
    """
    found = []
    for prediction in predict(cases, profile, classes=classes):
        case = prediction.case
        with weightless():
            model = build_model(case.model, num_classes=classes, in_channels=case.input_shape[0])
        characteristics = characterize(model, case.input_shape, name=case.model)
        found.append(RankedModel(prediction, characteristics))
    return sorted(found, key=lambda one: one.j_per_1000_samples)


def _is_unseen(case: Case, profile: HardwareProfile) -> bool:
    """Return whether the profile was fitted to no such step of a language model."""
    return case.counts_tokens and case.token_kind not in profile.seen.token_kinds


def _doublings(case: Case, profile: HardwareProfile) -> tuple[float, float]:
    """Return the doublings of the batch, and of the side of the samples, beyond the fitted."""
    if _is_unseen(case, profile):
        return 0.0, 0.0
    elements = math.prod(case.input_shape)
    return (
        doublings_beyond(case.batch_size, profile.seen.batch_size),
        doublings_beyond(elements, profile.seen.input_elements) / 2,
    )


def _operator_shares(
    operators: OperatorTable, found: StepEstimates
) -> list[tuple[OperatorShare, ...]]:
    shares: list[list[OperatorShare]] = [[] for _ in found.duration_s]
    work = (operators.launches, operators.flops, operators.bytes)
    columns = (*work, found.operator_s, found.operator_j)
    for kind in KINDS:
        chosen = operators.is_kind(kind)
        counts = operators.sum_by_step(chosen.astype(np.float64))
        totals = np.stack([operators.sum_by_step(values * chosen) for values in columns], axis=1)
        for step in np.flatnonzero(counts):
            launches, *rest = map(float, totals[step])
            shares[step].append(OperatorShare(kind, int(launches), *rest))
    return [tuple(one) for one in shares]


def _memory_notes(step: TracedStep, sheet: Datasheet) -> tuple[str, ...]:
    if sheet.memory_bytes is None or step.resident_bytes <= sheet.memory_bytes:
        return ()
    needed, there = (quantity(size, "B") for size in (step.resident_bytes, sheet.memory_bytes))
    return (f"it does not fit: the step needs about {needed}, {sheet.device} has {there}",)


def _notes(
    case: Case,
    profile: HardwareProfile,
    shares: Sequence[OperatorShare],
    host_s: float,
    device_s: float,
) -> tuple[str, ...]:
    seen = profile.seen
    batch, side = _doublings(case, profile)
    notes = []
    if profile.transferred_from:
        notes.append(
            f"nothing was measured on {profile.datasheet.device}: the values are those of "
            f"{profile.transferred_from} by the two data sheets, which widens the interval"
        )
    if _is_unseen(case, profile):
        notes.append(
            f"the profile was fitted to no such step of a language model ({case.token_kind}), "
            "which widens the interval"
        )
    if batch:
        notes.append(
            f"batch size {case.batch_size} is outside the measured range "
            f"({_range(seen.batch_size)}), which widens the interval"
        )
    if side:
        notes.append(
            f"a sample of {math.prod(case.input_shape)} "
            f"{'tokens' if case.counts_tokens else 'numbers'} is outside the measured range "
            f"({_range(seen.input_elements)}), which widens the interval"
        )
    for one in shares if not _is_unseen(case, profile) else ():
        share, measured = one.device_s / device_s, seen.device_share.get(one.kind, 0.0)
        if share > measured + NEW_KIND_SHARE:
            notes.append(
                f"{one.kind.replace('_', ' ')} operators take {percent(share, 2)} of the device "
                f"time, but at most {percent(measured, 2)} in the measured steps"
            )
    if profile.server:
        notes.append(
            f"{percent(host_s / (host_s + device_s), 2)} of the time is that of the server "
            f"({profile.server}); other servers and versions differ"
        )
    elif host_s > device_s and profile.datasheet.kind == "cuda":
        notes.append("the device waits for the host: time and energy depend on the host's speed")
    return tuple(notes)


def _range(ends: tuple[int, int]) -> str:
    return f"{ends[0]}" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
