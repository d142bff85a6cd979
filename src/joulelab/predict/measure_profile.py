"""Measure a hardware profile of this machine with micro-workloads."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F  # noqa: N812 - the usual abbreviation
from torch import Tensor

from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.machine import Machine, describe
from joulelab.meter import Meter
from joulelab.models.registry import build_model
from joulelab.predict import microworkloads
from joulelab.predict.coefficients import Datasheet, find_datasheet
from joulelab.predict.hardware_profile import HardwareProfile
from joulelab.predict.measurements import Measurement
from joulelab.predict.profile_fitting import make_profile
from joulelab.predict.step_tracing import trace_cases
from joulelab.predict.steps import PHASES, Case
from joulelab.recording.spans import Span
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.workloads.torch_runtime import resolve_device, synchronize

IDLE_SHARE = 0.08
"""Share of the time in which idle power is measured."""

WARMUP_SHARE = 0.2
"""Share of the time of each step before its measurement: cuDNN searches, caches fill."""

SMALL_BATCH = {"cpu": 1, "cuda": 8}
LARGEST_BATCH = 1 << 16
LONG_STEP_S = {"cpu": 0.05, "cuda": 0.005}
"""The large batch is the first whose forward pass takes this long. It fits into the memory: what a
device streams in so little time is a small part of that."""

PROBE_S = 1.5
"""Duration of each probe of a device without a data sheet."""

MATRIX_SIZE = 2048
STREAM_NUMBERS = 1 << 25
"""128 MiB of 4-byte numbers: more than the caches of most devices."""

CPU_CACHE_BYTES = 32e6
"""Assumed size of the last-level cache if the system does not report it."""


class TimedCase(NamedTuple):
    """A case that was run."""

    case: Case
    duration_s: float  # of a step
    span: Span  # of many steps


OnProgress = Callable[[float, str], None]
"""Takes the share of the work that is done, from 0 to 1, and a description of what is next."""


def measure_profile(
    name: str,
    device_name: str,
    budget_s: float,
    on_progress: OnProgress,
    on_measured: Callable[[Sequence[Measurement]], object] = lambda _: None,
) -> HardwareProfile:
    """Measure this machine for about ``budget_s``, with PyTorch's default number formats.

    Args:
        name: Name of the profile.
        device_name: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:INDEX"``.
        budget_s: Approximate duration of the measurement.
        on_progress: Called before each step.
        on_measured: Called with the measured steps.
    """
    cuda = device_name == "cuda" or (device_name == "auto" and torch.cuda.is_available())
    device = resolve_device("cuda" if cuda else device_name.replace("auto", "cpu"))
    machine = describe()
    on_progress(0.0, "idle power")
    with Meter(_select_sensors(device, machine)) as meter:
        psutil.cpu_percent()
        idle = meter.measure_idle(IDLE_SHARE * budget_s).points[-1]
        busy_pct = psutil.cpu_percent()
        sheet = find_datasheet(_device_name(device, machine))
        if sheet is None:
            on_progress(IDLE_SHARE, "limits of the device")
            sheet = probe_datasheet(device, machine, meter)
        rest = 1 - IDLE_SHARE
        cases = choose_cases(microworkloads.INPUT_SHAPES, device)
        with searching_cudnn():
            measurements = measure_cases(
                cases,
                device,
                meter,
                rest * budget_s,
                lambda done, what: on_progress(IDLE_SHARE + rest * done, what),
            )
    idle_w = sum(idle.power_w.values())
    measurements = [one._replace(idle_power_w=idle_w) for one in measurements]
    on_measured(measurements)
    on_progress(1.0, "fitting")
    return make_profile(
        name,
        measurements,
        trace_cases([one.case for one in measurements]),
        sheet,
        numerics="32-bit floating point, PyTorch's defaults",
        source=f"{len(measurements)} micro-workloads on {machine.host}, whose processors were "
        f"{busy_pct:.0f} % busy during the idle measurement",
        # Each workload exercises a kind of operator of its own, so only single steps can be
        # left out.
        groups=[str(one.case) for one in measurements],
    )


def choose_cases(input_shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> list[Case]:
    """Return both phases of each network: a small batch, one that fills the device, and between."""
    found = []
    for network, shape in input_shapes.items():
        small = Case(
            f"{microworkloads.__name__}:{network}", "infer", SMALL_BATCH[device.type], shape
        )
        least, most = small.batch_size, _large_batch(small, device)
        for batch_size in dict.fromkeys((least, round(math.sqrt(least * most)), most)):
            found += [small._replace(phase=phase, batch_size=batch_size) for phase in PHASES]
    return found


def measure_cases(
    cases: Sequence[Case],
    device: torch.device,
    meter: Meter,
    budget_s: float,
    on_progress: OnProgress,
) -> list[Measurement]:
    """Run each case for an equal share of the time. The idle power is left unknown."""
    timed = []
    for index, case in enumerate(cases):
        network = case.model.rpartition(":")[2]
        on_progress(index / len(cases), f"{network}, {case.phase}, batch {case.batch_size}")
        timed.append(time_case(case, device, meter, budget_s / len(cases)))
    return measure_timed(timed, meter)


def time_case(case: Case, device: torch.device, meter: Meter, duration_s: float) -> TimedCase:
    """Run steps of a case for about this long, in a span but for the warm-up."""
    step = make_step(case, device)
    repeat_for(step, WARMUP_SHARE * duration_s, device)
    with meter.span("steps") as span:
        step_s = repeat_for(step, (1 - WARMUP_SHARE) * duration_s, device)
    return TimedCase(case, step_s, span)


def measure_timed(timed: Sequence[TimedCase], meter: Meter) -> list[Measurement]:
    """Return the energies of cases that were run. Waits for the sensors, so call it rarely."""
    if not timed:
        return []
    energies = meter.energies([one.span for one in timed])
    _require_energy(energies[0])
    return [
        Measurement(one.case, one.duration_s, energy.mean_power_w * one.duration_s, math.nan, 1)
        for one, energy in zip(timed, energies, strict=True)
    ]


def repeat_for(work: Callable[[], object], duration_s: float, device: torch.device) -> float:
    """Repeat work, at least twice, and return the seconds per repetition after the first.

    The median over stretches of a tenth of the duration suppresses other work on the machine.
    """
    work()
    synchronize(device)
    stop_s = time.perf_counter() + duration_s
    found: list[float] = []
    while not found or time.perf_counter() < stop_s:
        start_s = time.perf_counter()
        count = 0
        while not count or time.perf_counter() - start_s < duration_s / 10:
            work()
            count += 1
        synchronize(device)
        found.append((time.perf_counter() - start_s) / count)
    return statistics.median(found)


def probe_datasheet(device: torch.device, machine: Machine, meter: Meter) -> Datasheet:
    """Measure matrix products and streaming; take the other limits from the system.

    Data sheets state peaks, of which products reach about 75 % and streaming 85 %, so the measured
    rates are divided by these. Matrix units are not probed: measured convolutions show them.
    """
    left = torch.randn((MATRIX_SIZE, MATRIX_SIZE), device=device)
    stream = torch.zeros(STREAM_NUMBERS, device=device)
    with meter.span("probe") as span:
        product_s = repeat_for(lambda: left @ left, PROBE_S, device)
    stream_s = repeat_for(lambda: stream.add_(1.0), PROBE_S, device)
    _require_energy(span.energy)
    vector_flops_per_s = 2 * MATRIX_SIZE**3 / product_s / 0.75
    return Datasheet(
        device=_device_name(device, machine),
        kind="cuda" if device.type == "cuda" else "cpu",
        vector_flops_per_s=vector_flops_per_s,
        matrix_flops_per_s=vector_flops_per_s,
        memory_bytes_per_s=2 * 4 * STREAM_NUMBERS / stream_s / 0.85,
        cache_bytes=_cache_bytes(device),
        processors=_processors(device),
        power_limit_w=span.energy.mean_power_w,
        generic=True,
    )


def _require_energy(energy: Energy) -> None:
    if not energy.components:
        reasons = "; ".join(f"{name}: {why}" for name, why in energy.absent.items())
        raise UserError("no energy was measured", why=reasons, hint="run joulelab doctor")


def _select_sensors(device: torch.device, machine: Machine) -> list[str] | None:
    """Select the sensors of the device, unless the environment does."""
    if os.environ.get(SENSORS_ENVIRONMENT):
        return None
    if device.type == "cpu":
        return ["cpu", "dram"]
    index = device.index or 0
    if index >= len(machine.gpus):
        raise UserError(f"the power of {device} cannot be measured", hint="run joulelab doctor")
    return [f"gpu:{machine.gpus[index].index}"]


def make_step(case: Case, device: torch.device) -> Callable[[], object]:
    """Return a function that runs one step, the same that is traced."""
    # A CPU takes seconds to draw the random weights of a large model.
    with device:
        model = build_model(case.model).to(device).train(case.phase == "train")
    samples = torch.randn((case.batch_size, *case.input_shape), device=device)
    labels = torch.zeros(case.batch_size, dtype=torch.long, device=device)
    if case.phase == "infer":

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


def _large_batch(small: Case, device: torch.device) -> int:
    batch_size = small.batch_size
    while batch_size < LARGEST_BATCH:
        step = make_step(small._replace(batch_size=batch_size), device)
        if repeat_for(step, 0.0, device) >= LONG_STEP_S[device.type]:
            break
        batch_size *= 2
    return batch_size


@contextlib.contextmanager
def searching_cudnn() -> Iterator[None]:
    """Let cuDNN search for the fastest algorithm, as training usually does."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _device_name(device: torch.device, machine: Machine) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return machine.cpu_model or "CPU"


def _cache_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).L2_cache_size)
    for name in ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE"):
        if name in os.sysconf_names and (size := os.sysconf(name)) > 0:
            return float(size)
    return CPU_CACHE_BYTES


def _processors(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return torch.get_num_threads()
