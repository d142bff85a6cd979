"""Measure what tuning inside a loop costs its program: ``python -m benchmarks.tune_loop``.

A loop whose steps sleep is trained on the simulated GPU of :mod:`benchmarks.standin`, with and
without tuning in turn. The table has the time of a step, the longest one, and the processor time of
the program, from which follows that of a probe.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import joulelab
from benchmarks import standin
from joulelab.sensors.simulated import Waveform

STEP_S = 0.005


def train(steps: int, window_s: float, *, tuned: bool) -> dict[str, float]:
    """Train once in this process."""
    tune = joulelab.Tune(0.1, window_s=window_s) if tuned else None
    durations = []
    with joulelab.Meter() as meter:
        loop = joulelab.epochs([0], tune=tune, quiet=True, meter=meter)
        for _ in loop:
            cpu_s = time.process_time()
            for _ in loop.steps(range(steps)):
                began_s = time.monotonic()
                time.sleep(STEP_S)
                durations.append(time.monotonic() - began_s)
            cpu_s = time.process_time() - cpu_s
    probes = 0 if tune is None or tune.result is None else tune.result.probes
    return {"step_s": median(durations), "longest_s": max(durations), "cpu_s": cpu_s, "n": probes}


def main() -> None:
    """Print one row for each training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--window", type=float, default=1.0, help="least time of a probe, s")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tuned", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tuned is not None:
        print(json.dumps(train(options.steps, options.window, tuned=bool(options.tuned))))
        return
    print("tuned  step, ms  longest, ms  processor time, s  probes")
    with tempfile.TemporaryDirectory() as directory:
        library = standin.build(Path(directory) / "library")
        for repeat in range(2 * options.repeats):
            home = Path(directory) / f"home{repeat}"
            controls = standin.Controls(may_set=True)
            gpu = Path(directory) / f"gpu{repeat}.txt"
            standin.write(gpu, Waveform.constant(800), controls=controls)
            environment = standin.environment(library, gpu) | {"JOULELAB_HOME": str(home)}
            arguments = (
                str(part) for part in ("--steps", options.steps, "--window", options.window)
            )
            command = [sys.executable, "-m", "benchmarks.tune_loop", *arguments]
            command += ["--tuned", str(repeat % 2)]
            done = subprocess.run(
                command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
            )
            row = json.loads(done.stdout)
            print(
                f"{'yes' if repeat % 2 else 'no':5}  {1e3 * row['step_s']:8.3f}  "
                f"{1e3 * row['longest_s']:11.1f}  {row['cpu_s']:17.3f}  {row['n']:6}"
            )


if __name__ == "__main__":
    main()
