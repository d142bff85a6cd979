"""Time and energy of a step that was never run, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulelab.predict.cases import Case
from joulelab.predict.device_model import Estimate, device_shares, estimate
from joulelab.predict.hardware import HardwareProfile, doublings_beyond
from joulelab.predict.operators import KINDS, Step
from joulelab.predict.steps import Told, steps_of
from joulelab.predict.uncertainty import coefficient_variance, extrapolation_variance
from joulelab.predict.work import Work, work_of

UNSEEN_SHARE = 0.2
"""A kind of operator is told that takes so much more of the device's time than in fitted steps."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the operators of one kind do in a step.

    Attributes:
        kind: As :data:`~joulelab.predict.operators.KINDS`.
        launches: Kernels.
        flops: Floating-point operations.
        bytes: Read and written.
        device_s: Time on the device.
        energy_j: Beyond idle power.
    """

    kind: str
    launches: int
    flops: float
    bytes: float
    device_s: float
    energy_j: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one step.

    Attributes:
        case: What would be run.
        energy_per_step_j: Gross.
        energy_low_j: Lower end of its 95 % interval.
        energy_high_j: Upper end.
        seconds_per_step: Its duration.
        seconds_low: Lower end of its 95 % interval.
        seconds_high: Upper end.
        host_s: What the host takes to hand the work out.
        device_s: What the device takes to do it.
        operators: By kind, those that occur.
        notes: What is unlike anything that the profile was fitted on, in words.
    """

    case: Case
    energy_per_step_j: float
    energy_low_j: float
    energy_high_j: float
    seconds_per_step: float
    seconds_low: float
    seconds_high: float
    host_s: float
    device_s: float
    operators: tuple[Share, ...]
    notes: tuple[str, ...]

    @property
    def energy_per_sample_j(self) -> float:
        """Gross."""
        return self.energy_per_step_j / self.case.batch_size

    @property
    def power_w(self) -> float:
        """Mean over the step."""
        return self.energy_per_step_j / self.seconds_per_step


def predict(
    cases: Sequence[Case],
    profile: HardwareProfile,
    *,
    classes: int = 10,
    told: Told | None = None,
) -> list[Prediction]:
    """Time and energy of steps, in the order of the cases.

    Args:
        cases: What would be run.
        profile: Of the device.
        classes: Classes that the models tell apart.
        told: Of each model as its steps are traced.

    Raises:
        UserError: A model is not known or does not take the sample.

    Example:
        >>> from joulelab.predict.hardware import load_profile
        >>> case = Case("LeNet", "infer", 128, (3, 32, 32))
        >>> (found,) = predict([case], load_profile("h100"))
        >>> found.energy_low_j < found.energy_per_step_j < found.energy_high_j
        True
    """
    return predict_steps(cases, steps_of(cases, classes=classes, told=told), profile)


def predict_steps(
    cases: Sequence[Case], steps: Sequence[Step], profile: HardwareProfile
) -> list[Prediction]:
    """As :func:`predict`, of steps that are already traced, one a case."""
    work = work_of(steps)
    sheet, known = profile.sheet, profile.known
    idle_w = np.full(len(cases), profile.idle_power_w)
    found = estimate(work, known.logs, sheet, idle_w)
    variance = coefficient_variance(work, known, sheet, idle_w)
    discrepancy = [[profile.duration_discrepancy], [profile.energy_discrepancy]]
    beyond = np.array([_doublings(case, profile) for case in cases])
    variance = variance + np.square(discrepancy)
    variance += extrapolation_variance(found, sheet, idle_w, beyond)
    factor = np.exp(profile.coverage_factor * np.sqrt(variance))
    shares = device_shares(work, found)
    operators = _operators(work, found)
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
            operators=operators[index],
            notes=_notes(case, profile, shares[index], found.host_s[index] > found.device_s[index]),
        )
        for index, case in enumerate(cases)
    ]


def _doublings(case: Case, profile: HardwareProfile) -> tuple[float, float]:
    """Of the batch, and of the side of the samples, beyond what the profile has seen."""
    elements = math.prod(case.input_shape)
    return (
        doublings_beyond(case.batch_size, profile.seen.batch_size),
        doublings_beyond(elements, profile.seen.input_elements) / 2,
    )


def _operators(work: Work, found: Estimate) -> list[tuple[Share, ...]]:
    """Of each step, what the operators of each kind do."""
    shares: list[list[Share]] = [[] for _ in found.duration_s]
    of_one = (work.launches, work.flops, work.bytes, found.operator_s, found.operator_j)
    for kind in KINDS:
        chosen = work.is_kind(kind)
        counts = work.sums(chosen.astype(np.float64))
        totals = np.stack([work.sums(values * chosen) for values in of_one], axis=1)
        for step in np.flatnonzero(counts):
            launches, *rest = map(float, totals[step])
            shares[step].append(Share(kind, int(launches), *rest))
    return [tuple(one) for one in shares]


def _notes(
    case: Case, profile: HardwareProfile, shares: dict[str, float], waits_for_host: bool
) -> tuple[str, ...]:
    seen = profile.seen
    batch, side = _doublings(case, profile)
    notes = []
    if batch:
        notes.append(
            f"batch {case.batch_size} is outside what was measured ({_range(seen.batch_size)})"
        )
    if side:
        notes.append(
            f"a sample of {math.prod(case.input_shape)} numbers is outside what was measured "
            f"({_range(seen.input_elements)})"
        )
    notes += [
        f"{share:.0%} of the device's time is {kind.replace('_', ' ')}, of which the measured "
        f"steps had at most {seen.device_share.get(kind, 0.0):.0%}"
        for kind, share in shares.items()
        if share > seen.device_share.get(kind, 0.0) + UNSEEN_SHARE
    ]
    if waits_for_host and profile.datasheet.kind == "cuda":
        notes.append("the device waits for the host: time and energy depend on the host's speed")
    return tuple(notes)


def _range(pair: tuple[int, int]) -> str:
    return f"{pair[0]}" if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"
