"""Test whether a larger batch size uses less energy for the same samples.

Run it with `python examples/compare_settings.py DIRECTORY`, where DIRECTORY is a new directory for
the runs. To try it without a GPU or RAPL, set `JOULELAB_SENSORS=simulated`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

import joulelab

SAMPLES, REPEATS = 16_384, 3
directory = Path(sys.argv[1])
weights = np.random.default_rng(0).normal(size=(256, 256))


def infer(batch_size: int) -> None:
    for _ in range(SAMPLES // batch_size):
        np.maximum(np.ones((batch_size, 256)) @ weights, 0)


infer(128)  # Start the threads of the linear algebra before measuring.
for repeat in range(REPEATS):
    for batch_size in (8, 128):
        with joulelab.Meter(directory=directory / f"batch-{batch_size}" / f"repeat-{repeat}"):
            infer(batch_size)
sides = [directory / "batch-8", directory / "batch-128"]
subprocess.run([sys.executable, "-m", "joulelab", "compare", *sides], check=True)
