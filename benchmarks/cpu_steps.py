"""Measure steps of small models on one core, as a table for ``python -m benchmarks.leave_one_out``.

``python -m benchmarks.cpu_steps torchvision --out steps.csv`` measures models of torchvision,
``others`` more of them, and ``paper`` those of the paper. The duration of a step is the processor
time of its thread, which other work on the machine changes least. Its energy is that of one busy
core on an otherwise idle machine, by the estimates of JouleLab.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from joulelab.models.registry import zoo_names
from joulelab.predict.measure_profile import make_step
from joulelab.predict.measurements import CASE_COLUMNS, MEASURED_COLUMNS
from joulelab.predict.steps import PHASES, Case
from joulelab.sensors.estimates import cpu_model, dram_power
from joulelab.sensors.host_hardware import processors

REPEAT_S = 0.25
"""Least duration of a repeat, after one step to warm up."""

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "mnasnet1_0", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf", "resnet34", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "vgg11",
)  # fmt: skip

OTHERS = (
    "alexnet", "convnext_small", "densenet169", "efficientnet_b1", "mnasnet0_5",
    "mobilenet_v3_large", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "vgg13", "wide_resnet50_2",
)  # fmt: skip

CASES = {
    "paper": [
        Case(name, phase, size, (3, 32, 32))
        for name in zoo_names()
        for size in (2, 16)
        for phase in PHASES
    ],
    "torchvision": [
        Case(f"torchvision:{name}", phase, 4, (3, 64, 64))
        for name in TORCHVISION
        for phase in PHASES
    ],
    "others": [
        Case(f"torchvision:{name}", phase, size, (3, side, side))
        for name in OTHERS
        for size, side in ((2, 96), (8, 64))
        for phase in PHASES
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_steps", description=__doc__)
    parser.add_argument("models", choices=CASES, help="models to measure")
    parser.add_argument("--out", type=Path, required=True, help="write the table to this file")
    parser.add_argument("--repeats", type=int, default=3, help="repeats, each in a random order")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cpu = processors()
    chips = cpu_model(cpu)
    memory_w = dram_power([], psutil.virtual_memory().total).power_w
    busy_w, idle_w = (chips.power_w(load) + memory_w for load in (1 / cpu.threads, 0.0))
    cases = CASES[options.models]
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*CASE_COLUMNS, *MEASURED_COLUMNS, "idle_power_w"))
        for repeat in range(options.repeats):
            for case in random.Random(repeat).sample(cases, len(cases)):
                seconds = measure(make_step(case, torch.device("cpu")))
                numbers = (f"{seconds:.6g}", f"{seconds * busy_w:.6g}", f"{idle_w:.4g}")
                writer.writerow((case.model, case.phase, case.batch_size, case.input, *numbers))
                file.flush()


def measure(step: Callable[[], object]) -> float:
    """Return the processor time of one step, after a first one."""
    step()
    start_s = time.thread_time()
    count = 0
    while not count or time.thread_time() - start_s < REPEAT_S:
        step()
        count += 1
    return (time.thread_time() - start_s) / count


if __name__ == "__main__":
    main()
