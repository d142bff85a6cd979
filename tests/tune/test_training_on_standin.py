"""A real training on the stand-in for NVML, whose power follows the limit, with the real guard."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import standin
from joulelab.sensors.simulated import Waveform

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the stand-in needs gcc")

FOUND_W, LEVELS, STEPS = 700, (200, 500, 600), 1000
TRAINING = """
import hashlib, json, sys, time
import pynvml, torch
import joulelab

steps, tuned = int(sys.argv[1]), sys.argv[2] == "tuned"
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1),
                            torch.nn.Linear(64, 4))
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
data = torch.utils.data.TensorDataset(torch.randn(400, 32), torch.randint(0, 4, (400,)))
loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
tune = joulelab.Tune(0.1, {"power_limit": (200, 500, 600)}, window_s=0.2) if tuned else None
loop, losses, next_s = joulelab.epochs(range(steps // 50), tune=tune, quiet=True), [], 0.0
for _ in loop:
    for x, y in loop.steps(loader):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if tuned:
            limit_w = pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3
            now_s = time.monotonic()
            next_s = max(next_s + 0.004 * (1 + 2 * (1 - limit_w / 700) ** 2), now_s)
            time.sleep(next_s - now_s)
weights = hashlib.sha256(b"".join(p.numpy().tobytes() for p in model.state_dict().values()))
print(json.dumps({"losses": losses, "weights": weights.hexdigest()}))
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


def start(steps, kind):
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(steps), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_loss_and_weights_are_those_without_tuning_bit_for_bit(gpu):
    trainings = [start(STEPS, kind) for kind in ("tuned", "untuned")]
    outputs = [training.communicate(timeout=120) for training in trainings]
    assert [error for _, error in outputs] == ["", ""]
    tuned, untuned = (json.loads(output) for output, _ in outputs)
    assert {FOUND_W, *LEVELS} >= set(limits_w(gpu)) > {FOUND_W}
    assert limits_w(gpu)[-1] == FOUND_W
    assert len(tuned["losses"]) == STEPS
    assert tuned["losses"] == untuned["losses"]
    assert tuned["weights"] == untuned["weights"]


def test_a_training_that_is_killed_while_it_is_tuned_leaves_the_limit_as_it_was(gpu):
    training = start(10**6, "tuned")
    try:
        wait_until(lambda: set(limits_w(gpu)) - {FOUND_W})
    finally:
        os.kill(training.pid, signal.SIGKILL)
        training.communicate()
    wait_until(lambda: limits_w(gpu)[-1] == FOUND_W)


def wait_until(condition):
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s, "it takes too long"
        time.sleep(0.02)
