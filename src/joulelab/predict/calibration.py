"""A hardware profile of this machine, by measuring micro-workloads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from joulelab.errors import UserError
from joulelab.machine import Machine, describe
from joulelab.meter import Meter
from joulelab.models.registry import build_model
from joulelab.predict.cases import Case, Measurement
from joulelab.predict.devices import datasheet_of
from joulelab.predict.hardware import HardwareProfile
from joulelab.predict.microworkloads import WORKLOADS, Workload, random_batch
from joulelab.predict.operators import PHASES
from joulelab.predict.probing import device_name, probed_datasheet, repeat_for
from joulelab.predict.profiling import make_profile
from joulelab.predict.steps import steps_of
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.workloads.devices import resolve_device

IDLE_SHARE = 0.08
"""Of the time, for which idle power is measured."""

WARMUP_SHARE = 0.2
"""Of the time for one step, before it is measured: cuDNN searches, caches fill."""

SMALL_BATCH = {"cpu": 1, "cuda": 8}
LARGEST_BATCH = 1024
LONG_STEP_S = {"cpu": 0.05, "cuda": 0.01}
"""The large batch is the first whose forward pass takes as long."""

Told = Callable[[float, str], None]
"""Told how much of the work is done, from 0 to 1, and what is next."""


class Trial(NamedTuple):
    """One step to be measured.

    Attributes:
        workload: What is run.
        phase: ``"train"`` or ``"infer"``.
        batch_size: Samples in the step.
    """

    workload: Workload
    phase: str
    batch_size: int

    @property
    def case(self) -> Case:
        """As any other case."""
        return Case(self.workload.model, self.phase, self.batch_size, self.workload.input_shape)


def calibrated_profile(name: str, device_wish: str, budget_s: float, told: Told) -> HardwareProfile:
    """Measures this machine, with PyTorch's default number formats.

    Args:
        name: The profile's.
        device_wish: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:INDEX"``.
        budget_s: About how long to measure.
        told: Told of progress.

    Raises:
        UserError: The device is not there, or nothing measures energy.
    """
    cuda = device_wish == "cuda" or (device_wish == "auto" and torch.cuda.is_available())
    device = resolve_device("cuda" if cuda else device_wish.replace("auto", "cpu"))
    machine = describe()
    told(0.0, "idle power")
    with Meter(_sensors(device, machine)) as meter, _searching_cudnn():
        psutil.cpu_percent()
        idle = meter.measure_idle(IDLE_SHARE * budget_s).points[-1]
        busy_pct = psutil.cpu_percent()
        sheet = datasheet_of(device_name(device, machine))
        if sheet is None:
            told(IDLE_SHARE, "limits of the device")
            sheet = probed_datasheet(device, machine, meter)
        trials = trials_for(WORKLOADS, device)
        rest = 1 - IDLE_SHARE
        measurements = measure(
            trials,
            device,
            meter,
            rest * budget_s,
            lambda done, what: told(IDLE_SHARE + rest * done, what),
        )
    told(1.0, "fitting")
    return make_profile(
        name,
        [one._replace(idle_power_w=sum(idle.power_w.values())) for one in measurements],
        steps_of([one.case for one in measurements]),
        sheet,
        numerics="32-bit floating point, PyTorch's defaults",
        source=f"{len(measurements)} micro-workloads on {machine.host}, "
        f"its processors {busy_pct:.0f} % busy while they should have been idle",
        # Each workload alone tells of its kind of operator: only single steps can be left out.
        groups=[str(one.case) for one in measurements],
    )


def _sensors(device: torch.device, machine: Machine) -> list[str] | None:
    """Those of the device alone, or what the environment says."""
    if os.environ.get(SENSORS_ENVIRONMENT):
        return None
    if device.type == "cpu":
        return ["cpu", "dram"]
    place = device.index or 0
    if place >= len(machine.gpus):
        raise UserError(
            f"the power of {device} cannot be measured", hint="see what joulelab doctor says"
        )
    return [f"gpu:{machine.gpus[place].index}"]


def trials_for(workloads: Sequence[Workload], device: torch.device) -> list[Trial]:
    """Both phases of each workload, at a small batch and at one that keeps the device busy."""
    return [
        Trial(workload, phase, batch_size)
        for workload in workloads
        for batch_size in dict.fromkeys((SMALL_BATCH[device.type], _large_batch(workload, device)))
        for phase in PHASES
    ]


def measure(
    trials: Sequence[Trial], device: torch.device, meter: Meter, budget_s: float, told: Told
) -> list[Measurement]:
    """Runs each trial for its share of a time. Idle power is left open.

    Raises:
        UserError: Nothing measures energy.
    """
    share_s = budget_s / len(trials)
    spans = []
    for index, trial in enumerate(trials):
        told(index / len(trials), f"{trial.workload.factory}, {trial.phase}, {trial.batch_size}")
        step = _step_of(trial, device)
        repeat_for(step, WARMUP_SHARE * share_s, device)
        with meter.span("steps") as span:
            duration_s = repeat_for(step, (1 - WARMUP_SHARE) * share_s, device)
        spans.append((trial.case, duration_s, span))
    energies = meter.energies([span for _, _, span in spans])
    if not energies[0].components:
        reasons = "; ".join(f"{name}: {why}" for name, why in energies[0].absent.items())
        raise UserError("no energy was measured", why=reasons, hint="see what joulelab doctor says")
    return [
        Measurement(case, duration_s, energy.mean_power_w * duration_s, float("nan"), 1)
        for (case, duration_s, _), energy in zip(spans, energies, strict=True)
    ]


def _step_of(trial: Trial, device: torch.device) -> Callable[[], object]:
    """One step: the same that is traced."""
    model = build_model(trial.workload.model).to(device).train(trial.phase == "train")
    samples, labels = random_batch(trial.batch_size, trial.workload, device)
    if trial.phase == "infer":

        def infer() -> Tensor:
            with torch.no_grad():
                scores: Tensor = model(samples)
            return scores

        return infer
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(samples), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return train


def _large_batch(workload: Workload, device: torch.device) -> int:
    batch_size = SMALL_BATCH[device.type]
    while batch_size < LARGEST_BATCH:
        step = _step_of(Trial(workload, "infer", batch_size), device)
        if repeat_for(step, 0.0, device) >= LONG_STEP_S[device.type]:
            break
        batch_size *= 2
    return batch_size


@contextlib.contextmanager
def _searching_cudnn() -> Iterator[None]:
    """CuDNN searches for the fastest algorithm, as training usually has it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
