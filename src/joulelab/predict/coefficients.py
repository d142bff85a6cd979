"""The coefficients of a device: what each is, and what is known of it before any measurement.

What a table of measurements does not show is taken from the device's data sheet by stated rules,
only as firmly as the rule deserves: each is the centre of a log-normal distribution with a standard
deviation of the logarithm. A fit moves a coefficient as far as the measurements bear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.predict.devices import Datasheet

Floats = NDArray[np.float64]

GENERIC_WIDENING = 3.0
"""Times that rules are less firm for a device whose data sheet is not known."""


class Coefficient(NamedTuple):
    """One positive number of the model.

    Attributes:
        name: With its unit.
        about: What it is.
        expected: Its value by the data sheet.
        width: Standard deviation of the logarithm of its value about that.
        from_datasheet: Whether the value rests on the data sheet's figures, or on PyTorch's habits.
    """

    name: str
    about: str
    expected: Callable[[Datasheet], float]
    width: float
    from_datasheet: bool = True


def _product_rate(sheet: Datasheet) -> float:
    return 0.75 * sheet.vector_flops_per_s


def _stream_rate(sheet: Datasheet) -> float:
    return 0.85 * sheet.memory_bytes_per_s


def _product_j(sheet: Datasheet) -> float:
    """A dense product at full rate draws about the power limit: half of it is not its own."""
    return 0.45 * sheet.power_limit_w / _product_rate(sheet)


def _stream_j(sheet: Datasheet) -> float:
    """Streaming draws three quarters of the power limit, 40 % of the limit not its own."""
    return 0.36 * sheet.power_limit_w / _stream_rate(sheet)


def _depthwise_rate(sheet: Datasheet) -> float:
    return 0.075 * sheet.vector_flops_per_s


COEFFICIENTS = (
    Coefficient(
        "convolution_flops_per_s",
        "dense and aligned grouped convolutions, once every processor has work",
        lambda sheet: 0.3 * sheet.matrix_flops_per_s,
        0.5,
    ),
    Coefficient(
        "unaligned_convolution_flops_per_s",
        "grouped convolutions of groups of no multiple of 4 channels: matrix units read 16 bytes",
        lambda sheet: 0.2 * sheet.vector_flops_per_s,
        0.3,
    ),
    Coefficient(
        "depthwise_flops_per_s",
        "PyTorch's own kernel: one thread an output",
        _depthwise_rate,
        0.5,
    ),
    Coefficient(
        "depthwise_gradient_flops_per_s",
        "PyTorch's own kernel for the gradient of depthwise weights: one block a weight",
        lambda sheet: _depthwise_rate(sheet) / 3,
        0.6,
    ),
    Coefficient(
        "product_flops_per_s",
        "matrix products and attention in 32 bits",
        _product_rate,
        0.15,
    ),
    Coefficient(
        "idle_waves",
        "waves of tiles that a convolution loses while processors start and end",
        lambda _: 0.3,
        0.5,
        from_datasheet=False,
    ),
    Coefficient(
        "convolution_copies",
        "times that a convolution moves its tensors once more, into the layout of matrix units",
        lambda _: 1.5,
        0.4,
        from_datasheet=False,
    ),
    Coefficient(
        "pointwise_copies",
        "the same of pointwise and grouped convolutions",
        lambda _: 1.0,
        0.4,
        from_datasheet=False,
    ),
    Coefficient("memory_bytes_per_s", "tensors larger than the cache", _stream_rate, 0.1),
    Coefficient(
        "cache_bytes_per_s",
        "tensors that stay in the last-level cache",
        lambda sheet: 2 * _stream_rate(sheet),
        0.2,
    ),
    Coefficient(
        "cache_bytes",
        "what an operator moves where half of it comes from the cache",
        lambda sheet: 0.8 * sheet.cache_bytes,
        0.3,
    ),
    Coefficient(
        "launch_s",
        "start and end of a kernel on the device",
        lambda _: 2.5e-6,
        0.3,
        from_datasheet=False,
    ),
    Coefficient(
        "convolution_launch_s",
        "the same of a convolution with its kernels before and after",
        lambda _: 6e-6,
        0.4,
        from_datasheet=False,
    ),
    Coefficient(
        "forward_call_s",
        "the host hands out one operator of the forward pass",
        lambda _: 25e-6,
        0.7,
        from_datasheet=False,
    ),
    Coefficient(
        "backward_call_s", "one of the backward pass", lambda _: 35e-6, 0.7, from_datasheet=False
    ),
    Coefficient(
        "library_call_s",
        "what a convolution or normalisation by a library takes more",
        lambda _: 12e-6,
        0.7,
        from_datasheet=False,
    ),
    Coefficient(
        "parameter_s",
        "the optimiser's host work for one tensor of parameters",
        lambda _: 8e-6,
        0.7,
        from_datasheet=False,
    ),
    Coefficient("step_s", "the loop around a step", lambda _: 60e-6, 0.5, from_datasheet=False),
    Coefficient(
        "busy_power_w",
        "over idle, while the device works on anything",
        lambda sheet: 0.2 * sheet.power_limit_w,
        0.4,
    ),
    Coefficient(
        "convolution_j_per_flop",
        "convolutions on matrix units",
        lambda sheet: 0.2 * _product_j(sheet) if _has_matrix_units(sheet) else _product_j(sheet),
        0.4,
    ),
    Coefficient("depthwise_j_per_flop", "depthwise convolutions", _product_j, 0.5),
    Coefficient("product_j_per_flop", "matrix products and attention", _product_j, 0.2),
    Coefficient("memory_j_per_byte", "main memory", _stream_j, 0.3),
    Coefficient("cache_j_per_byte", "cache", lambda sheet: 0.45 * _stream_j(sheet), 0.4),
)
"""All coefficients. Rules are rounded from what is published of GPUs and of PyTorch's kernels."""

NAMES = tuple(one.name for one in COEFFICIENTS)


def expected(sheet: Datasheet) -> tuple[Floats, Floats]:
    """Logarithms of the coefficients by the data sheet, and their standard deviations.

    Returns:
        Two arrays, shape (coefficients,).
    """
    centres = np.log([one.expected(sheet) for one in COEFFICIENTS])
    widths = [
        one.width * (GENERIC_WIDENING if sheet.generic and one.from_datasheet else 1.0)
        for one in COEFFICIENTS
    ]
    return centres, np.array(widths)


def _has_matrix_units(sheet: Datasheet) -> bool:
    return sheet.matrix_flops_per_s > sheet.vector_flops_per_s
