"""A real training on the stand-in for NVML, whose power follows the limit, with the real guard."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from waiting import wait_for

from benchmarks import standin
from joulelab.sensors.simulated import Waveform

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the stand-in needs gcc")

FOUND_W, LEVELS, STEPS = 700, (200, 500, 600), 1000
TRAINING = """
import json, sys, time
import pynvml
import joulelab

def train(work, steps, tune):
    loop, next_s = joulelab.epochs(range(steps // 50), tune=tune, quiet=True), 0.0
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    for _ in loop:
        for batch in loop.steps(work.batches()):
            work.step(batch)
            if tune is not None:
                limit_w = pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3
                now_s = time.monotonic()
                next_s = max(next_s + 0.004 * (1 + 2 * (1 - limit_w / 700) ** 2), now_s)
                time.sleep(next_s - now_s)

def new_tune():
    return joulelab.Tune(0.1, {"power_limit": (200, 500, 600)}, window_s=0.2)
"""
TWICE = f"""{TRAINING}
import torch

class Network:
    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(),
                                         torch.nn.Dropout(0.1), torch.nn.Linear(64, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        x, y = torch.randn(400, 32), torch.randint(0, 4, (400,))
        data = torch.utils.data.TensorDataset(x, y)
        self.loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
        self.losses = []

    def batches(self):
        return self.loader

    def step(self, batch):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item().hex())

torch.set_num_threads(1)
for tune in (None, new_tune()):
    network = Network()
    train(network, {STEPS}, tune)
    weights = b"".join(one.numpy().tobytes() for one in network.model.state_dict().values())
    print(json.dumps({{"losses": network.losses, "weights": weights.hex()}}))
"""
ENDLESS = f"""{TRAINING}
class Nothing:
    def batches(self):
        return range(50)

    def step(self, batch):
        pass

train(Nothing(), 10**8, new_tune())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return standin.build(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def gpu(tmp_path, library, monkeypatch):
    """The file of a GPU that draws as much as its limit allows."""
    controls = standin.Controls(may_set=True)
    file = standin.write(tmp_path / "gpu.txt", Waveform.constant(800), controls=controls)
    for name, value in standin.environment(library, file).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("JOULELAB_SENSORS", raising=False)
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    return file


def limits_w(gpu):
    """Every power limit that was set."""
    return [change.limit_w for change in standin.changes(gpu)]


def start(program):
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_loss_and_weights_are_those_without_tuning_bit_for_bit(gpu):
    output, errors = start(TWICE).communicate()
    assert errors == ""
    assert {FOUND_W, *LEVELS} >= set(limits_w(gpu)) > {FOUND_W}
    assert limits_w(gpu)[-1] == FOUND_W
    untuned, tuned = map(json.loads, output.splitlines())
    assert len(tuned["losses"]) == STEPS
    assert tuned == untuned


def test_a_training_that_is_killed_while_it_is_tuned_leaves_the_limit_as_it_was(gpu):
    training = start(ENDLESS)
    try:
        wait_for(lambda: set(limits_w(gpu)) - {FOUND_W})
    finally:
        os.kill(training.pid, signal.SIGKILL)
        training.communicate()
    wait_for(lambda: limits_w(gpu)[-1] == FOUND_W)
