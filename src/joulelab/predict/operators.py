"""The operators of one step of training or inference, as a device sees them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

PHASES = ("train", "infer")

KINDS = (
    "convolution",
    "pointwise_convolution",
    "grouped_convolution",
    "depthwise_convolution",
    "depthwise_weight_gradient",
    "matrix_product",
    "attention",
    "normalization",
    "reduction",
    "elementwise",
    "optimizer",
)
"""Operators that use a device alike. A pointwise convolution has a kernel of one pixel."""


class Product(NamedTuple):
    """Matrix products that one operator is, or is equal to.

    A convolution is a product of pixels by channels (the implicit matrix product of Chetlur et
    al., "cuDNN: Efficient Primitives for Deep Learning", 2014, section 3).

    Attributes:
        matrices: Independent products of the same shape: groups, or matrices of a batch.
        rows: Of each result.
        columns: Of each result.
        depth: Terms that each number of a result sums.
    """

    matrices: int
    rows: int
    columns: int
    depth: int


class Operator(NamedTuple):
    """One piece of a device's work.

    Attributes:
        kind: One of :data:`KINDS`.
        part: ``"forward"``, ``"backward"`` or ``"optimizer"``.
        flops: Floating-point operations of matrix products and convolutions, two a
            multiply-accumulate; 0 for all others.
        read_bytes: Bytes that its passes over its inputs read.
        written_bytes: Bytes of its outputs.
        product: The matrix products that the FLOPs belong to, if any.
        launches: Kernels that it starts.
        calls: Times that the host hands it out: 0 where another operator of the same call counts.
    """

    kind: str
    part: str
    flops: float
    read_bytes: float
    written_bytes: float
    product: Product | None = None
    launches: int = 1
    calls: int = 1


@dataclass(frozen=True)
class Step:
    """The operators of one step.

    Attributes:
        phase: ``"train"`` or ``"infer"``.
        batch_size: Samples in the step.
        operators: How often each operator occurs.
        parameter_tensors: Tensors that the optimiser updates.
    """

    phase: str
    batch_size: int
    operators: Counter[Operator]
    parameter_tensors: int

    @property
    def flops(self) -> float:
        """Of the whole step."""
        return self._sum(lambda one: one.flops)

    @property
    def bytes(self) -> float:
        """Read and written in the whole step."""
        return self._sum(lambda one: one.read_bytes + one.written_bytes)

    @property
    def launches(self) -> int:
        """Kernels started in the whole step."""
        return int(self._sum(lambda one: one.launches))

    def calls(self, part: str, kinds: Sequence[str] = KINDS) -> int:
        """Operators of some kinds that the host hands out in one part of the step."""
        return int(
            self._sum(lambda one: one.calls if one.part == part and one.kind in kinds else 0)
        )

    def _sum(self, of: Callable[[Operator], float]) -> float:
        return math.fsum(of(one) * count for one, count in self.operators.items())
