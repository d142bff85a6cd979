"""Steps of training and inference, and the operators that they consist of on a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from joulelab.arrays import Floats
from joulelab.predict.coefficients import Datasheet

PHASES = ("train", "infer")

TOKEN_PHASES = ("train", "prefill", "decode", "serve")
"""Phases of a language model that is given by its configuration. To serve is to decode with the
prefills that keep the batch full."""

ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes of an element of a language model's weights, activations and cache by precision."""

KINDS = (
    "convolution",
    "pointwise_convolution",
    "grouped_convolution",
    "depthwise_convolution",
    "depthwise_weight_gradient",
    "matrix_product",
    "attention",
    "normalization",
    "pooling",
    "reduction",
    "elementwise",
    "optimizer",
)
"""Operators that use a device in the same way. A pointwise convolution has a 1x1 kernel."""

LIBRARY_CONVOLUTIONS = ("convolution", "pointwise_convolution", "grouped_convolution")
"""Convolutions that run in cuDNN; PyTorch has its own kernels for depthwise ones."""

TILE = (128, 64)
"""Rows and columns of a result that one processor computes at a time: in the middle of the sizes
that libraries choose from (NVIDIA, "Matrix Multiplication Background User's Guide")."""

SLICE = 16384
"""Terms that one processor adds up of a sum that is distributed (split-K)."""

FRAGMENT = 32
"""Rows, columns and depth are padded to multiples of this."""

VECTOR = 16
"""4-byte numbers in a vector register of 512 bits of a CPU."""

KERNEL_ROWS = 48
"""Rows of a matrix product that a CPU's library computes at once: three vectors. Products of 2 to 9
rows took as long with MKL 2024.2."""

LARGE_TENSOR = 32 << 20
"""Bytes of a tensor above which glibc takes memory from the system and gives it back at once."""

KEPT_MEMORY = 64 << 20
"""Free bytes that glibc keeps (``M_TRIM_THRESHOLD``, which adapts up to twice the largest
``M_MMAP_THRESHOLD``, above: mallopt(3))."""

ALIGNED_CHANNELS = 4
"""4-byte numbers in the 16 bytes that matrix units read (cuDNN's developer guide)."""

Booleans = np.ndarray[tuple[int], np.dtype[np.bool_]]
Indices = np.ndarray[tuple[int], np.dtype[np.intp]]


class Case(NamedTuple):
    """A step that can be run."""

    model: str  # name as joulelab.models.registry accepts it
    phase: str  # one of PHASES, or of TOKEN_PHASES for a language model
    batch_size: int  # samples in the step
    input_shape: tuple[int, ...]  # of one sample
    output_tokens: int = 0  # that follow the input in each sequence, for decode and serve
    precision: str = "bf16"  # of a language model's weights, activations and cache

    @property
    def input(self) -> str:
        """The shape as text, for example ``3x32x32``."""
        return "x".join(map(str, self.input_shape))

    @property
    def counts_tokens(self) -> bool:
        """Whether it is a step of a language model, counted from its configuration."""
        return self.model.startswith("lm:") or self.phase in set(TOKEN_PHASES) - set(PHASES)

    @property
    def tokens(self) -> float:
        """The tokens of one step: input tokens, or output tokens for decode and serve."""
        if self.phase == "decode":
            return self.batch_size
        if self.phase == "serve":
            return self.batch_size + self.prefills
        return self.batch_size * self.input_shape[0]

    @property
    def decodes(self) -> bool:
        """Whether the step produces tokens after those of the input."""
        return self.phase in {"decode", "serve"}

    @property
    def token(self) -> str:
        """The kind of token that a step of a language model is about, as in ``j_per_TOKEN``."""
        return {"train": "trained_token", "prefill": "input_token"}.get(self.phase, "output_token")

    @property
    def token_kind(self) -> str:
        """The phase and the width of numbers, which a profile of language models depends on."""
        return f"{self.phase} in {8 * ELEMENT_BYTES[self.precision]} bits"

    @property
    def prefills(self) -> float:
        """Prefills per step of serving: one gives a sequence's first token, steps the rest."""
        return self.batch_size / (self.output_tokens - 1)


class MatrixProduct(NamedTuple):
    """Matrix products that an operator consists of or is equivalent to.

    A convolution is a product of pixels by channels (the implicit matrix product of Chetlur et
    al., "cuDNN: Efficient Primitives for Deep Learning", 2014, section 3).
    """

    matrices: int  # independent products of the same shape: groups, or matrices of a batch
    rows: int
    columns: int
    depth: int  # terms in the sum for each element of a result


class Operator(NamedTuple):
    """One piece of work for the device."""

    kind: str  # one of KINDS
    part: str  # "forward", "backward" or "optimizer"
    flops: float  # of matrix products and convolutions, two per multiply-accumulate; otherwise 0
    read_bytes: float  # in all passes over the inputs
    written_bytes: float
    product: MatrixProduct | None = None
    launches: int = 1  # kernels started
    calls: int = 1  # calls by the host: 0 if another operator of the same call counts it
    elements: float = 0.0  # numbers in pooling windows, in statistics, or in functions as exp
    is_split: bool = False  # whether processors share sums: gradients of weights sum over a batch
    is_half: bool = False  # whether it multiplies 16-bit numbers
    weight_bytes: float = 0.0  # of those read, the weights of a convolution
    vector_flops: float = 0.0  # of a convolution on a CPU, whose channels fill whole vectors
    images: int = 1  # of a convolution
    threads_alone: float = 0.0  # up to which a CPU multiplies the matrices of each image alone


@dataclass(frozen=True)
class TracedStep:
    """The operators of one step and how often each occurs."""

    operators: Mapping[Operator, float]
    parameter_tensors: int  # that the optimiser updates
    server_steps: float = 0.0  # steps that an inference server schedules
    sequences: float = 0.0  # sequences in these steps
    resident_bytes: float = 0.0  # of weights, cache and the optimiser's state; 0 if not counted

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole step."""
        return self._sum(lambda one: one.flops)

    @property
    def bytes(self) -> float:
        """Bytes read and written in the whole step."""
        return self._sum(lambda one: one.read_bytes + one.written_bytes)

    @property
    def launches(self) -> int:
        """Kernels started in the whole step."""
        return int(self._sum(lambda one: one.launches))

    @property
    def fresh_bytes(self) -> float:
        """Bytes that a CPU takes from the system in each step, page by page.

        These are large tensors, and what training keeps until its backward pass beyond the memory
        that stays with the process.
        """
        large = self._sum(lambda one: one.written_bytes * _is_large(one))
        if not any(one.part == "backward" for one in self.operators):
            return large
        kept = self._sum(
            lambda one: (
                one.written_bytes * ((one.part == "forward" or one.is_split) and not _is_large(one))
            )
        )
        return large + max(0.0, kept - KEPT_MEMORY)

    def calls(self, part: str, kinds: Sequence[str] = KINDS) -> int:
        """Count the host's calls of operators of some kinds in one part of the step."""
        return int(
            self._sum(lambda one: one.calls if one.part == part and one.kind in kinds else 0)
        )

    def _sum(self, of: Callable[[Operator], float]) -> float:
        return math.fsum(of(one) * count for one, count in self.operators.items())


@dataclass(frozen=True)
class OperatorTable:
    """The distinct operators of several steps on a device as arrays of shape (operators,)."""

    step: Indices  # the step that the operator belongs to
    kind: Indices  # index into KINDS
    count: Floats  # occurrences in the step
    flops: Floats  # of one occurrence
    computed_flops: Floats  # with those that the device adds to fill its fragments or vectors
    bytes: Floats  # read and written by one occurrence
    laid_bytes: Floats  # of the bytes, weights or their gradients that a CPU lays out differently
    tiles: Floats  # of the result; 1 if it has none
    is_split: Booleans  # whether processors share the sums of one tile
    unaligned: Booleans  # whether it is a grouped convolution that matrix units cannot process
    launches: Floats
    elements: Floats  # in the windows of pooling, in statistics and transcendental functions
    is_half: Booleans  # whether it multiplies 16-bit numbers
    weight_bytes: Floats  # of the bytes, a convolution's weights
    is_product: Booleans  # whether the device computes it as a matrix product
    is_vector: Booleans  # whether one of its matrices has a single row
    calls: Floats  # forward, backward and library calls, parameter tensors; shape (steps, 4)
    served: Floats  # steps and sequences of a server; shape (steps, 2)
    fresh_bytes: Floats  # that a CPU takes from the system; shape (steps,)

    def sum_by_step(self, values: Floats) -> Floats:
        """Sum values over the operators of each step. Shape: (operators,) to (steps,)."""
        return np.bincount(self.step, values * self.count, len(self.calls)).astype(np.float64)

    def is_kind(self, *kinds: str) -> Booleans:
        """Return which operators are of one of these kinds."""
        found: Booleans = np.logical_or.reduce([self._of_kind[kind] for kind in kinds])
        return found

    @cached_property
    def _of_kind(self) -> dict[str, Booleans]:
        return {kind: self.kind == index for index, kind in enumerate(KINDS)}


def tabulate_operators(steps: Sequence[TracedStep], sheet: Datasheet) -> OperatorTable:
    """Convert the operators of steps to arrays, as the device of the data sheet computes them."""
    table = [
        (
            index,
            KINDS.index(one.kind),
            count,
            one.flops,
            one.read_bytes + one.written_bytes,
            *(one.product or (1, 1, 1, 0)),
            one.launches,
            one.elements,
            one.is_split,
            one.is_half,
            one.weight_bytes,
            one.vector_flops or one.flops,
            one.images,
            one.threads_alone,
        )
        for index, step in enumerate(steps)
        for one, count in step.operators.items()
    ]
    fields = np.array(table, dtype=np.float64).reshape(len(table), 17).T
    step, kind, count, flops, traffic, matrices, rows, columns, depth = fields[:9]
    launches, elements, split, half, weights, vector_flops, images, threads = fields[9:]
    is_split = split > 0
    from_library = _is_kind(kind, LIBRARY_CONVOLUTIONS)
    is_product = _is_kind(kind, ("matrix_product", "attention"))
    laid, fresh = np.zeros_like(traffic), np.zeros(len(steps))
    if sheet.kind == "cuda":
        padded = 2 * matrices * _pad(rows, FRAGMENT) * _pad(columns, FRAGMENT)
        computed = np.where(from_library, padded * _pad(depth, FRAGMENT), flops)
    else:
        alone = sheet.processors <= threads
        rows = np.maximum(rows / np.where(alone & ~is_split, images, 1), 1)
        filled = np.where(rows < VECTOR, KERNEL_ROWS, _pad(rows, VECTOR)) / rows
        as_it_is = is_split | (rows == 1)
        computed = np.where(alone, flops * np.where(as_it_is, 1.0, filled), vector_flops)
        size = np.where(is_split & from_library, 4 * matrices * rows * columns, weights)
        # Each image alone needs the weights again; their gradients are read and written.
        again = np.where(is_split, 2 * images - 2, images - 1)
        traffic = traffic + np.where(alone, again * size, 0.0)
        is_product = is_product | alone
        laid = np.where(is_product, 0.0, size)
        fresh = np.array([one.fresh_bytes for one in steps])
    return OperatorTable(
        step=step.astype(np.intp),
        kind=kind.astype(np.intp),
        count=count,
        flops=flops,
        computed_flops=computed,
        bytes=traffic,
        laid_bytes=laid,
        tiles=(
            matrices
            * np.ceil(rows / TILE[0])
            * np.ceil(columns / TILE[1])
            * np.where(is_split, np.ceil(depth / SLICE), 1.0)
        ),
        is_split=is_split,
        unaligned=_is_kind(kind, ("grouped_convolution",)) & (columns % ALIGNED_CHANNELS > 0),
        launches=launches,
        elements=elements,
        is_half=half > 0,
        weight_bytes=weights,
        is_product=is_product,
        is_vector=rows == 1,
        calls=np.array([_calls(step) for step in steps], dtype=np.float64).reshape(-1, 4),
        served=np.array([(one.server_steps, one.sequences) for one in steps]).reshape(-1, 2),
        fresh_bytes=fresh,
    )


def _is_large(one: Operator) -> bool:
    return one.written_bytes > LARGE_TENSOR and one.kind != "optimizer"


def _is_kind(kind: Floats, names: Sequence[str]) -> Booleans:
    return np.isin(kind, [KINDS.index(one) for one in names])


def _pad(size: Floats, multiple: int) -> Floats:
    return np.ceil(size / multiple) * multiple


def _calls(step: TracedStep) -> tuple[int, int, int, int]:
    kinds = (*LIBRARY_CONVOLUTIONS, "normalization")
    library = sum(step.calls(part, kinds) for part in ("forward", "backward"))
    return step.calls("forward"), step.calls("backward"), library, step.parameter_tensors
