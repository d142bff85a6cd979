"""Steps on a CPU: how PyTorch computes small convolutions, and predictions of measured ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from joulelab.predict.coefficients import expect_coefficients, generic_datasheet
from joulelab.predict.device_model import estimate_steps
from joulelab.predict.measurements import read_measurements
from joulelab.predict.profile_fitting import combine, fit
from joulelab.predict.step_tracing import trace_cases, trace_step
from joulelab.predict.steps import tabulate_operators

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def one_thread(threads=1):
    return generic_datasheet("cpu").model_copy(update={"processors": threads})


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("layer", "images", "pixels"),
    [
        (nn.Conv2d(8, 8, 1), 2, 8),
        (nn.Conv2d(8, 8, 1), 16, 8),
        (nn.Conv2d(8, 8, 1, stride=2), 2, 8),
        (nn.Conv2d(8, 8, 1), 1, 8),
        (nn.Conv2d(8, 8, 1), 1, 64),
        (nn.Conv2d(8, 8, 3), 2, 8),
        (nn.Conv2d(8, 8, 3), 1, 8),
        (nn.Conv2d(8, 8, 3, stride=2), 1, 8),
        (nn.Conv2d(8, 8, 3), 1, 64),
        (nn.Conv2d(8, 8, 5), 1, 8),
        (nn.Conv2d(8, 8, (1, 5)), 1, 8),
        (nn.Conv2d(8, 8, 3, groups=2), 1, 8),
    ],
)
def test_the_convolutions_that_pytorch_leaves_to_matrix_products(
    with_threads, layer, images, pixels, threads
):
    shape = (8, pixels, pixels)
    table = tabulate_operators([trace_step(layer, "infer", images, shape)], one_thread(threads))
    with_threads(threads)
    cpu = [ProfilerActivity.CPU]
    with profile(activities=cpu, acc_events=True) as recorded, torch.no_grad():
        layer(torch.zeros(images, *shape))
    called = {one.key for one in recorded.key_averages()}
    assert ("aten::mkldnn_convolution" in called) == (not table.is_product[0])
    assert ("aten::_slow_conv2d_forward" in called) == table.is_product[0]


def times(layer, batch, pixels, threads):
    """Estimate the device's time by the data sheet, in seconds."""
    sheet = one_thread(threads)
    table = tabulate_operators([trace_step(layer, "infer", batch, (256, pixels, pixels))], sheet)
    return estimate_steps(table, expect_coefficients(sheet)[0], sheet, 5.0).device_s[0]


def test_one_thread_needs_the_weights_again_for_each_image():
    layer = nn.Conv2d(256, 256, 1)
    step = [trace_step(layer, "infer", batch, (256, 4, 4)) for batch in (8, 16)]
    few, many = (tabulate_operators([one], one_thread()).bytes[0] for one in step)
    images = 4 * 256 * 16 * 2
    weights = 4 * 256 * 256
    assert (few, many) == (8 * (images + weights), 16 * images + weights)
    assert tabulate_operators(step[:1], one_thread(threads=2)).bytes[0] == 8 * images + weights


def test_a_few_pixels_take_as_long_as_the_rows_of_a_kernel():
    layer = nn.Conv2d(256, 256, 1)
    assert times(layer, 2, 3, 1) == pytest.approx(times(layer, 2, 2, 1), rel=0.05)
    assert times(layer, 2, 4, 1) < times(layer, 2, 3, 1)
    assert times(layer, 2, 1, 1) < 0.5 * times(layer, 2, 2, 1)


def test_few_channels_fill_a_vector():
    wide, narrow = nn.Conv2d(256, 16, 3), nn.Conv2d(256, 4, 3)
    flops = [
        tabulate_operators([trace_step(one, "infer", 16, (256, 8, 8))], one_thread())
        for one in (wide, narrow)
    ]
    assert flops[0].computed_flops[0] == flops[1].computed_flops[0] == 4 * flops[1].flops[0]


def test_a_fit_to_one_thread_predicts_other_models_and_larger_images():
    """Half of the errors are at most 12 %, and nine in ten 25 %."""
    sheet = one_thread()
    small, others = (
        combine(table, trace_cases([one.case for one in table]), sheet)
        for table in (
            read_measurements(RESULTS / "cpu-paper-steps.csv"),
            read_measurements(RESULTS / "cpu-torchvision-steps.csv"),
        )
    )
    found = estimate_steps(others.operators, fit(small).logs, sheet, others.idle_power_w)
    errors = np.abs(found.energy_j / others.energy_j - 1)
    assert np.median(errors) <= 0.12
    assert np.quantile(errors, 0.9) <= 0.25


def test_memory_that_a_cpu_takes_from_the_system():
    """Large tensors are taken in each step, and what training keeps beyond 64 MiB."""
    large, small = nn.Linear(8, 4096, bias=False), nn.Linear(8, 8, bias=False)
    mebibyte = 1 << 20
    assert trace_step(large, "infer", 2048, (8,)).fresh_bytes == 0
    assert trace_step(large, "infer", 4096, (8,)).fresh_bytes == 64 * mebibyte
    assert trace_step(small, "train", 4096, (8,)).fresh_bytes == 0
    layers = nn.Sequential(*(nn.Conv2d(64, 64, 1, bias=False) for _ in range(5)))
    kept = 6 * 16 * mebibyte  # and the squares of the outputs
    step = trace_step(layers, "train", 64, (64, 32, 32))
    assert step.fresh_bytes == pytest.approx(kept - 64 * mebibyte, rel=0.01)
    assert trace_step(layers, "infer", 64, (64, 32, 32)).fresh_bytes == 0
