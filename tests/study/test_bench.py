"""Which sensors a cell is measured by."""

import tomllib
from dataclasses import replace

import pytest

from joulelab.machine import Gpu
from joulelab.study.executor import Bench
from joulelab.study.plan_file import parse

PLAN = """
name = "test"
models = ["LeNet"]
[data]
name = "synthetic"
train_count = 64
test_count = 64
"""


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.delenv("JOULELAB_SENSORS", raising=False)
    plan = parse(tomllib.loads(PLAN), "test.toml")
    bench = Bench(plan)
    gpu = Gpu(
        index=2,
        name="a GPU",
        uuid="GPU-x",
        memory_bytes=1,
        power_limit_w=1.0,
        default_power_limit_w=1.0,
        driver="1",
        cuda_version="1",
        mig=None,
    )
    bench._machine = replace(bench._machine, gpus=(gpu, replace(gpu, index=5)))
    return bench


def test_a_cell_on_the_cpu_is_not_charged_for_gpus(bench):
    assert bench._sensors_of("cpu") == ["cpu", "dram", "host"]


def test_a_cell_on_one_gpu_is_charged_for_that_gpu_alone(bench):
    assert bench._sensors_of("cuda:1") == ["gpu:5", "cpu", "dram", "host"]


def test_idle_is_measured_for_every_gpu_of_the_plan(bench):
    assert bench._sensors_of("cuda:0", "cpu", "cuda:1", "cuda:0")[:2] == ["gpu:2", "gpu:5"]


def test_what_the_user_asked_for_is_left_alone(bench, monkeypatch):
    bench._sensors = ["gpu"]
    assert bench._sensors_of("cuda:1") == ["gpu"]
    bench._sensors = None
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    assert bench._sensors_of("cuda:1") is None
