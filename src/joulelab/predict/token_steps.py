"""Count the operators of one step of a language model from its configuration.

A step is a prefill, a decode step, what a server does in the time of a decode step, or a step of
training. Nothing is built or traced, so a model of any size takes milliseconds. Products,
attention, the traffic of weights, cache and scores follow from the architecture; the number of
small kernels is about that of transformers, or of a server that fuses them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from joulelab.errors import UserError
from joulelab.format import join_words
from joulelab.models.language_models import LanguageConfig
from joulelab.predict.operator_counting import TENSORS_A_LAUNCH
from joulelab.predict.steps import (
    ELEMENT_BYTES,
    TOKEN_PHASES,
    Case,
    MatrixProduct,
    Operator,
    TracedStep,
)

SCORE_BYTES = 4
"""The scores of the vocabulary are sampled, and enter the loss, as 32-bit numbers."""


class Block(NamedTuple):
    """Details of an architecture's layers that its configuration does not state."""

    norms: int = 2  # normalisations of the residual stream
    head_norms: bool = False  # whether queries and keys are normalised
    rms: bool = True  # by the root mean square; else by mean and variance (LayerNorm)
    rotary: bool = True  # whether positions rotate queries and keys
    windowed: float = 1.0  # share of the layers that a sliding window applies to


BLOCKS = {
    "gpt2": Block(rms=False, rotary=False),
    "starcoder2": Block(rms=False),
    "gemma2": Block(norms=4, windowed=0.5),
    **dict.fromkeys(("llama", "mistral", "mixtral", "phi3", "qwen2", "gemma"), Block()),
    **dict.fromkeys(("qwen3", "qwen3_moe", "olmoe"), Block(head_norms=True)),
}
"""Architectures that can be predicted, by their names in transformers."""


class Kernels(NamedTuple):
    """Kernels for one piece of work, and how often all of them pass over its tensor."""

    launches: int
    passes: float


class Implementation(NamedTuple):
    """How the work between the products is divided into kernels."""

    rms_norm: Kernels
    layer_norm: Kernels
    rotary: Kernels  # of queries and keys
    activation: Kernels  # with the gate, if there is one
    residual: Kernels
    sampling: Kernels  # of the scores of the vocabulary
    copies_cache: bool  # whether appending a token copies the cache


EAGER = Implementation(
    rms_norm=Kernels(7, 14),
    layer_norm=Kernels(1, 2),
    rotary=Kernels(10, 24),
    activation=Kernels(2, 5),
    residual=Kernels(1, 3),
    sampling=Kernels(2, 3),
    copies_cache=True,
)
"""Transformers: a kernel for each operator, and a cache that is concatenated. It starts about a
quarter more kernels; but the host times of a profile are those of modules that call one each."""

FUSED = Implementation(
    rms_norm=Kernels(1, 4),
    layer_norm=Kernels(1, 4),
    rotary=Kernels(1, 2),
    activation=Kernels(1, 3),
    residual=Kernels(0, 0),
    sampling=Kernels(6, 12),
    copies_cache=False,
)
"""Inference servers: normalisation also adds the residual, and the cache consists of pages."""


class Tokens(NamedTuple):
    """The tokens of a forward pass."""

    sequences: float
    new: int  # tokens of each sequence in this pass
    cached: float  # tokens of each sequence in the cache
    scored: int  # the last of the new tokens, which get scores

    @property
    def rows(self) -> float:
        """Rows of the activations."""
        return self.sequences * self.new

    def attended(self, window: float) -> float:
        """Return how many tokens a new token attends to, on average; at most a window.

        Attention is causal: among the new ones a token attends to itself and those before it.
        """
        if self.new > window:
            return window - window * (window - 1) / (2 * self.new)
        return min(self.cached + (self.new + 1) / 2, window)


def count_token_step(config: LanguageConfig, case: Case, *, served: bool = False) -> TracedStep:
    """Count the operators of one step.

    Args:
        config: Sizes of the model.
        case: Its ``input_shape`` is the number of input tokens of a sequence.
        served: Whether an inference server runs the step, as graphs of fused kernels.

    Raises:
        UserError: The architecture, the phase, the precision or a number of tokens is unknown.

    Example:
        >>> from joulelab.models.registry import language_config
        >>> case = Case("lm:gpt2", "decode", 1, (128,), 32, "bf16")
        >>> round(count_token_step(language_config("lm:gpt2"), case).flops / 1e6)
        252
    """
    _refuse_unknown(config, case, served)
    inputs, batch = case.input_shape[0], case.batch_size
    # Prefill gives the first output token, so decode starts with the second.
    outputs = max(case.output_tokens, 2)
    forward = _ForwardPass(config, case.precision, FUSED if served else EAGER)
    if case.phase == "train":
        found = forward.operators(Tokens(batch, inputs, 0, inputs))
        update = forward.loss_and_update(batch * inputs)
        found = _sum([*found.items(), *_backward(found).items(), *update.items()])
        size = 4 * 4 * forward.weights  # with gradients and two moments
        return TracedStep(found, forward.parameter_tensors, resident_bytes=size)
    steps, sequences = 1.0, float(batch)
    if case.phase == "prefill":
        found = forward.operators(Tokens(batch, inputs, 0, 1))
    else:
        found = forward.operators(Tokens(batch, 1, inputs + outputs / 2 - 1, 1))
    if case.phase == "serve":
        # Sequences end one by one, so each prefill is a step of its own.
        prefill = forward.operators(Tokens(1, inputs, 0, 1))
        found = _sum([*found.items(), *((one, case.prefills * n) for one, n in prefill.items())])
        steps, sequences = steps + case.prefills, sequences + case.prefills
    cached = batch * (inputs + case.output_tokens) * config.cache_values_per_token
    size = ELEMENT_BYTES[case.precision] * (forward.weights + cached)
    return TracedStep(found, 0, *((steps, sequences) if served else (0.0, 0.0)), size)


def distinct_experts(experts: int, per_token: int, tokens: float) -> float:
    """Return the expected number of experts of a layer that process at least one token.

    Experts are assumed to be equally likely for each token, independently: batches of real text
    touch fewer.

    Example:
        >>> round(distinct_experts(8, 2, 4), 2)
        5.47
    """
    missed: float = (1 - per_token / experts) ** tokens
    return experts * (1 - missed)


def _refuse_unknown(config: LanguageConfig, case: Case, served: bool) -> None:
    for what, value, known in (
        ("phase", case.phase, TOKEN_PHASES),
        ("precision", case.precision, ELEMENT_BYTES),
        ("formula for the architecture", config.kind, BLOCKS),
    ):
        if value not in known:
            raise UserError(
                f"{case.model}: there is no {what} {value!r}",
                hint=f"known are {join_words(tuple(known), 'and')}",
            )
    if len(case.input_shape) != 1:
        raise UserError(
            f"{case.model} does not accept {case.input}", why="its input is a number of tokens"
        )
    config.require_length(case.input_shape[0] + case.output_tokens, case.model)
    if case.phase == "serve" and case.output_tokens < 2:
        raise UserError(
            "to serve is to decode two or more tokens for each request",
            hint="state --output-tokens, or choose the phase prefill",
        )
    if served and case.phase == "train":
        raise UserError(
            "the profile is of an inference server, which does not train",
            hint="choose another with --profile",
        )


class _ForwardPass:
    """Counts the operators of forward passes of one model in one precision."""

    def __init__(self, config: LanguageConfig, precision: str, kernels: Implementation) -> None:
        self._config, self._kernels = config, kernels
        self._block = BLOCKS[config.kind]
        self._bytes = ELEMENT_BYTES[precision]
        self._is_half = self._bytes < 4

    @property
    def parameter_tensors(self) -> int:
        """Tensors that an optimiser updates."""
        config, block = self._config, self._block
        tensors = 4 + block.norms + 2 * block.head_norms + (3 if config.gated else 2)
        return config.layers * tensors + 2 + (not config.tied_embeddings)

    def operators(self, tokens: Tokens) -> dict[Operator, float]:
        """Return the operators of one pass and how often each occurs."""
        config, block, kernels = self._config, self._block, self._kernels
        rows, width, layers = tokens.rows, config.hidden_size, config.layers
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return _sum(
            [
                (self._product(rows, queries, width), layers),
                (self._product(rows, keys, width), 2 * layers),
                (self._product(rows, width, queries), layers),
                *((one, layers * count) for one, count in self._feed_forward(rows)),
                (self._norm(rows * width), layers * block.norms + 1),
                (self._norm(rows * queries), layers * block.head_norms),
                (self._norm(rows * keys), layers * block.head_norms),
                (self._small(kernels.rotary, rows * (queries + keys)), layers * block.rotary),
                (self._append(tokens), layers),
                (self._small(kernels.residual, rows * width), 2 * layers),
                (self._small(Kernels(1, 2), rows * width), 1),  # rows of the embedding
                *self._attention(tokens),
                *self._scores(tokens),
            ]
        )

    @property
    def weights(self) -> float:
        """The number of weights. Those of normalisation and biases are too few to count."""
        config = self._config
        attention = 2 * config.hidden_size * config.head_dim * (config.heads + config.kv_heads)
        inner = (3 if config.gated else 2) * config.hidden_size * config.feed_forward
        inner = inner * config.experts + config.hidden_size * config.experts or inner
        tables = config.vocabulary * config.hidden_size * (1 if config.tied_embeddings else 2)
        return float(config.layers * (attention + inner) + tables)

    def loss_and_update(self, rows: float) -> dict[Operator, float]:
        """Return the loss with its gradient, the embedding's gradient, and the optimiser (Adam).

        Weights, gradients and the optimiser's state have 32 bits in every precision; weights of
        16 bits are converted in each step (mixed precision: Micikevicius et al., 2018).
        """
        config = self._config
        scores = rows * config.vocabulary * SCORE_BYTES
        table = config.vocabulary * config.hidden_size * 4.0
        size = 4.0 * self.weights
        launches = math.ceil(self.parameter_tensors / TENSORS_A_LAUNCH)
        found = {
            Operator("reduction", "forward", 0.0, scores, scores, elements=scores / 4): 1.0,
            Operator("elementwise", "backward", 0.0, 2 * scores, scores): 1.0,
            Operator("elementwise", "backward", 0.0, table, table): 1.0,
            Operator("optimizer", "optimizer", 0.0, 4 * size, 3 * size, launches=launches): 1.0,
        }
        if self._is_half:
            copied = Operator("elementwise", "forward", 0.0, size, size / 2, calls=0)
            found[copied._replace(launches=self.parameter_tensors)] = 1.0
        return found

    def _product(self, rows: float, columns: int, depth: int) -> Operator:
        """Return a product of activations by a matrix of weights."""
        return self._products(1.0, rows, columns, depth)

    def _products(self, matrices: float, rows: float, columns: int, depth: int) -> Operator:
        """Return products by a number of matrices, with ``rows`` of activations in all."""
        read = self._bytes * (rows * depth + matrices * depth * columns)
        return Operator(
            "matrix_product",
            "forward",
            2.0 * rows * columns * depth,
            read,
            self._bytes * rows * columns,
            MatrixProduct(math.ceil(matrices), math.ceil(rows / matrices), columns, depth),
            is_half=self._is_half,
        )

    def _feed_forward(self, rows: float) -> list[tuple[Operator, int]]:
        config = self._config
        width, inner, into = config.hidden_size, config.feed_forward, 2 if config.gated else 1
        found = []
        matrices = 1.0
        if config.experts:
            found.append((self._product(rows, config.experts, width), 1))
            matrices = distinct_experts(config.experts, config.experts_per_token, rows)
            rows *= config.experts_per_token
        activation = self._small(self._kernels.activation, rows * inner)
        return [
            *found,
            (self._products(matrices, rows, inner, width), into),
            (self._products(matrices, rows, width, inner), 1),
            (activation._replace(elements=rows * inner), 1),
        ]

    def _attention(self, tokens: Tokens) -> list[tuple[Operator, float]]:
        """Return attention of the layers with and without a window (see count_attention)."""
        config = self._config
        window = config.sliding_window or math.inf
        windowed = self._block.windowed if config.sliding_window else 0.0
        found = []
        for share, limit in ((windowed, window), (1 - windowed, math.inf)):
            attended = tokens.attended(limit)
            keys = min(tokens.cached + tokens.new, limit if tokens.new == 1 else math.inf)
            queries = tokens.rows * config.heads * config.head_dim
            cache = tokens.sequences * keys * config.cache_values_per_token / config.layers
            operator = Operator(
                "attention",
                "forward",
                4.0 * queries * attended,
                self._bytes * (queries + cache),
                self._bytes * queries,
                MatrixProduct(
                    math.ceil(tokens.sequences * config.heads),
                    tokens.new,
                    math.ceil(attended),
                    config.head_dim,
                ),
                is_half=self._is_half,
            )
            found.append((operator, share * config.layers))
        return found

    def _scores(self, tokens: Tokens) -> list[tuple[Operator, float]]:
        config = self._config
        rows = tokens.sequences * tokens.scored
        product = self._product(rows, config.vocabulary, config.hidden_size)
        if tokens.scored > 1:
            return [(product, 1)]
        launches, passes = self._kernels.sampling
        traffic = rows * config.vocabulary * SCORE_BYTES * passes
        sampling = Operator(
            "reduction", "forward", 0.0, traffic, 0.0, launches=launches, calls=launches
        )
        return [(product, 1), (sampling, 1)]

    def _norm(self, elements: float) -> Operator:
        kernels = self._kernels.rms_norm if self._block.rms else self._kernels.layer_norm
        operator = self._small(kernels, elements, "normalization")
        return operator._replace(elements=2 * elements)

    def _append(self, tokens: Tokens) -> Operator:
        """Return what puts the new keys and values of a layer into the cache."""
        copied = tokens.new + (tokens.cached if self._kernels.copies_cache else 0)
        values = self._config.cache_values_per_token / self._config.layers
        return self._small(Kernels(2, 2), tokens.sequences * copied * values)

    def _small(self, kernels: Kernels, elements: float, kind: str = "elementwise") -> Operator:
        launches, passes = kernels
        traffic = self._bytes * elements * passes / 2
        return Operator(kind, "forward", 0.0, traffic, traffic, launches=launches, calls=launches)


def _backward(operators: Mapping[Operator, float]) -> dict[Operator, float]:
    """Return the operators of the backward pass.

    A product has two gradients, each a product of the same size. Attention has five products for
    two (Dao, 2023). For other operators, autograd starts about three kernels for two.
    """
    found = []
    for one, count in operators.items():
        back, times = one._replace(part="backward"), 1.5
        if one.kind == "matrix_product":
            times = 2.0
        elif one.kind == "attention":
            read = 2 * one.read_bytes + one.written_bytes
            back, times = back._replace(flops=2.5 * one.flops, read_bytes=read), 1.0
        found.append((back, count * times))
    return _sum(found)


def _sum(operators: Iterable[tuple[Operator, float]]) -> dict[Operator, float]:
    """Add up how often each operator occurs, and leave out those that do not."""
    found: dict[Operator, float] = {}
    for operator, count in operators:
        if count:
            found[operator] = found.get(operator, 0.0) + count
    return found
