"""Processes of a job with meters of their own, which do what a test asks."""

import json
import subprocess
import sys
from pathlib import Path

from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

WITHOUT = (
    "JOULELAB_RECORDING",
    "JOULELAB_HOST",
    "JOULELAB_SENSORS",
    "CUDA_VISIBLE_DEVICES",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
)
"""Variables that a test's own environment must not have."""

PROCESS = Path(__file__).with_name("rank_process.py")

MACHINE = SimulatedMachine(
    (
        SimulatedSource(
            component="gpu:0", waveform=Waveform.square(low_w=100, high_w=500, period_s=0.3)
        ),
        SimulatedSource(
            component="gpu:1", waveform=Waveform.square(low_w=60, high_w=300, period_s=0.4)
        ),
        SimulatedSource(component="cpu:0", waveform=Waveform.constant(80.0)),
    )
)


class Rank:
    """A process with a meter. It reads requests from its input and answers in JSON."""

    def __init__(self, environment, options):
        self._process = subprocess.Popen(
            [sys.executable, PROCESS, json.dumps(options)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def answer(self):
        """Return its next answer; the first describes the recorder that it found."""
        line = self._process.stdout.readline()
        assert line, "the process ended without an answer"
        return json.loads(line)

    def send(self, request):
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()

    def ask(self, request):
        self.send(request)
        return self.answer()

    def kill(self):
        self._process.kill()
        self._process.wait()

    def end(self):
        """Close its meter, and return the answer."""
        last = self.ask("close")
        self._process.communicate()
        assert self._process.returncode == 0
        return last

    def clean_up(self):
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            stream.close()


def torchrun(rank, world_size, job):
    """Return what torchrun sets to name a job and a rank."""
    return {
        "TORCHELASTIC_RUN_ID": job,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
    }


def assert_true(span):
    """Assert that every component was measured once, and that its energy is the true one."""
    assert set(span["gross_j"]) == {"gpu:0", "gpu:1", "cpu:0"}
    for component, gross_j in span["gross_j"].items():
        truth_j = MACHINE.energy_j(span["start_ns"] * 1e-9, span["stop_ns"] * 1e-9, component)
        assert_close(gross_j, truth_j, span["uncertainty_j"][component])


def assert_close(gross_j, truth_j, uncertainty_j):
    """Assert that an energy is off by at most 2 %, or as much as its own uncertainty allows.

    On a busy machine a recorder reads late, and the interval is wider then. The truth lies within
    4 standard uncertainties for all but 1 in 16,000 spans.
    """
    assert abs(gross_j - truth_j) <= max(0.02 * truth_j, 4 * uncertainty_j)
