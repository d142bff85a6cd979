"""The operators of many steps as arrays, with what a device's processors make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from joulelab.predict.coefficients import Floats
from joulelab.predict.operators import KINDS, Step

TILE = 64
"""Rows and columns of a result that one processor works out at a time."""

SLICE = 16384
"""Terms of a sum that one processor adds up; more are shared out (split-K), as the gradients of
convolutions' weights need, which are small and sum over all pixels of a batch."""

FRAGMENT = 32
"""Rows, columns and depth are filled up to multiples of it."""

ALIGNED_CHANNELS = 4
"""Numbers of 4 bytes in the 16 bytes that matrix units read (cuDNN's developer guide)."""

LIBRARY_CONVOLUTIONS = ("convolution", "pointwise_convolution", "grouped_convolution")
"""Those that cuDNN does; PyTorch has its own kernels for depthwise ones."""


@dataclass(frozen=True)
class Work:
    """Distinct operators of some steps. Arrays have the shape (operators,) unless stated.

    Attributes:
        step: The step that each belongs to, an index.
        kind: Index into :data:`~joulelab.predict.operators.KINDS`.
        count: How often it occurs.
        flops: Floating-point operations of one, filled up to whole fragments for the convolutions
            of a library.
        bytes: Read and written by one.
        tiles: Tiles of the result; 1 where there are none.
        unaligned: Whether it is a grouped convolution that matrix units cannot take.
        launches: Kernels.
        calls: Forward calls, backward calls, calls of a library, and tensors of
            parameters of each step. Shape: (steps, 4).
    """

    step: np.ndarray[tuple[int], np.dtype[np.intp]]
    kind: np.ndarray[tuple[int], np.dtype[np.intp]]
    count: Floats
    flops: Floats
    bytes: Floats
    tiles: Floats
    unaligned: np.ndarray[tuple[int], np.dtype[np.bool_]]
    launches: Floats
    calls: Floats

    def sums(self, values: Floats) -> Floats:
        """Sums over the operators of each step. Shape: (operators,) to (steps,)."""
        return np.bincount(self.step, values * self.count, len(self.calls)).astype(np.float64)

    def is_kind(self, *kinds: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which operators are of one of these kinds."""
        found: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.logical_or.reduce(
            [self._of_kind[kind] for kind in kinds]
        )
        return found

    @cached_property
    def _of_kind(self) -> dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        return {kind: self.kind == index for index, kind in enumerate(KINDS)}


def work_of(steps: Sequence[Step]) -> Work:
    """The operators of steps as arrays."""
    rows = [
        (
            index,
            KINDS.index(one.kind),
            count,
            one.flops,
            one.read_bytes + one.written_bytes,
            *(one.product or (1, 1, 1, 0)),
            one.launches,
        )
        for index, step in enumerate(steps)
        for one, count in step.operators.items()
    ]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 10).T
    step, kind, count, flops, moved, matrices, rows_, columns_, depth, launches = columns
    library = np.isin(kind, [KINDS.index(one) for one in LIBRARY_CONVOLUTIONS])
    filled = 2 * matrices * _filled(rows_) * _filled(columns_) * _filled(depth)
    grouped = kind == KINDS.index("grouped_convolution")
    return Work(
        step=step.astype(np.intp),
        kind=kind.astype(np.intp),
        count=count,
        flops=np.where(library, filled, flops),
        bytes=moved,
        tiles=(
            matrices
            * np.ceil(rows_ / TILE)
            * np.ceil(columns_ / TILE)
            * np.ceil(np.maximum(depth, 1) / SLICE)
        ),
        unaligned=grouped & (columns_ % ALIGNED_CHANNELS > 0),
        launches=launches,
        calls=np.array([_calls(step) for step in steps], dtype=np.float64).reshape(-1, 4),
    )


def _filled(size: Floats) -> Floats:
    return np.ceil(size / FRAGMENT) * FRAGMENT


def _calls(step: Step) -> tuple[int, int, int, int]:
    kinds = (*LIBRARY_CONVOLUTIONS, "normalization")
    library = sum(step.calls(part, kinds) for part in ("forward", "backward"))
    return step.calls("forward"), step.calls("backward"), library, step.parameter_tensors
