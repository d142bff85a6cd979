"""What a batch of training data contains: samples, and tokens of language models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

IGNORED_LABEL = -100
"""Label of a position that is not in the loss: PyTorch's default for ``cross_entropy``."""

TokenCounter = Callable[[Any], float]


class Tokens(NamedTuple):
    """Numbers of tokens: numbers, or arrays of one number that may not have been computed yet."""

    # Tokens without padding where a batch has an attention mask, else all positions.
    processed: Any
    padding: Any = math.nan  # Other positions; NaN without an attention mask.
    # Positions that the loss is computed from; NaN without labels for each position.
    targets: Any = math.nan

    @classmethod
    def total(cls, tokens: Iterable[Tokens]) -> Tokens:
        """Add up numbers of tokens; the sum of none is unknown."""
        columns = list(zip(*tokens, strict=True))
        return cls(*map(sum, columns)) if columns else UNKNOWN_TOKENS

    def scaled(self, factor: float) -> Tokens:
        """Multiply all numbers."""
        return Tokens(*(factor * one for one in self))

    def attributes(self) -> dict[str, float]:
        """Return the known numbers as attributes of a span. Waits for the device if necessary."""
        numbers = zip(ATTRIBUTES, map(float, self), strict=True)
        return {name: number for name, number in numbers if math.isfinite(number)}

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, Any]) -> Tokens:
        """Return the inverse of :meth:`attributes`."""
        return cls(*(float(attributes.get(name, math.nan)) for name in ATTRIBUTES))


ATTRIBUTES = ("tokens", "padding_tokens", "target_tokens")
"""Attributes of spans that are numbers of tokens."""
UNKNOWN_TOKENS = Tokens(math.nan)


def count_tokens(batch: Any) -> Tokens:
    """Count the tokens of all ``input_ids`` in a batch, without waiting for the device.

    Sequences that are packed in one row need no attention mask: every position counts. In a mask
    that numbers packed sequences, 0 is padding.

    Example:
        >>> from numpy import array
        >>> batch = {"input_ids": array([[5, 6, 7], [8, 0, 0]]),
        ...     "attention_mask": array([[1, 1, 1], [1, 0, 0]]),
        ...     "labels": array([[-100, 6, 7], [8, -100, -100]])}
        >>> count_tokens(batch).attributes()
        {'tokens': 4.0, 'padding_tokens': 2.0, 'target_tokens': 3.0}
        >>> count_tokens({"input_ids": array([5, 6, 7])}).attributes()
        {'tokens': 3.0}
        >>> count_tokens((array([0.1, 0.2]), "text")).attributes()
        {}
    """
    return Tokens.total(_count(inputs) for inputs in _with_input_ids(batch))


def _with_input_ids(batch: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of models in a batch, which may contain several."""
    if isinstance(batch, Mapping):
        if "input_ids" in batch:
            yield batch
            return
        batch = tuple(batch.values())
    if isinstance(batch, (list, tuple)):
        for part in batch:
            yield from _with_input_ids(part)


def _count(inputs: Mapping[str, Any]) -> Tokens:
    shape = getattr(inputs["input_ids"], "shape", None)
    if not isinstance(shape, tuple):
        return UNKNOWN_TOKENS
    # Masks of attention between pairs of positions have another shape, as have labels of sequences.
    mask, labels = (
        one if getattr(one, "shape", None) == shape else None
        for one in (inputs.get("attention_mask"), inputs.get("labels"))
    )
    positions = math.prod(shape)
    targets = math.nan if labels is None else (labels != IGNORED_LABEL).sum()
    if mask is None:
        return Tokens(positions, targets=targets)
    processed = (mask != 0).sum()
    return Tokens(processed, positions - processed, targets)


def batch_size(batch: Any) -> float:
    """Return the length of the first array in a batch; NaN without one.

    Example:
        >>> from numpy import zeros
        >>> batch_size({"text": ["a", "b"], "x": (zeros((2, 3)), zeros(2))})
        2.0
    """
    shape = getattr(batch, "shape", None)
    if isinstance(shape, tuple):
        return float(shape[0]) if shape else math.nan
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if not isinstance(batch, Sequence) or isinstance(batch, (str, bytes)):
        return math.nan
    sizes = (batch_size(part) for part in batch if not isinstance(part, (str, bytes)))
    return next((size for size in sizes if not math.isnan(size)), math.nan)
