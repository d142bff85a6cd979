"""Processes of a job, each of which does what a test tells it to."""

import json
import subprocess
import sys
import time
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
"""What a test's own environment must not say."""

PROCESS = Path(__file__).with_name("told_process.py")

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


class Told:
    """A program with a meter. It reads what to do from its input, and answers in JSON."""

    def __init__(self, environment, options):
        self._process = subprocess.Popen(
            [sys.executable, PROCESS, json.dumps(options)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def hear(self):
        """Its next answer; the first says what it found."""
        line = self._process.stdout.readline()
        assert line, "the process ended without a word"
        return json.loads(line)

    def tell(self, what):
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def ask(self, what):
        self.tell(what)
        return self.hear()

    def kill(self):
        self._process.kill()
        self._process.wait()

    def end(self):
        """What its closed meter says."""
        last = self.ask("close")
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        return last

    def give_up(self):
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            stream.close()


def torchrun(rank, world_size, job):
    """What torchrun sets, of what names a job and a rank."""
    return {
        "TORCHELASTIC_RUN_ID": job,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
    }


def eventually(condition, timeout_s=20.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition never came true"
        time.sleep(0.01)
