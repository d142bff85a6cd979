"""Published language models by name, and the sizes of one. Imports no torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

from joulelab.errors import UnknownModelError, UserError, nearest

TOKENS = 128
"""Tokens of a sample of a text model, unless it accepts fewer."""

_SHORT_NAMES = {"mistral-7b": "mistral-7b-v0.3"}

# Other names of the same sizes, for example those of GPT-2.
_OTHER_KEYS = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
    "num_key_value_heads": ("num_kv_heads",),
    "intermediate_size": ("n_inner", "ffn_dim"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
}

_TWO_MATRICES = ("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "phi", "starcoder2")
"""Architectures whose feed-forward network is not gated."""


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """Sizes of a language model that generates text."""

    kind: str  # Its architecture, as transformers names it, for example ``llama``.
    layers: int  # Transformer blocks.
    hidden_size: int  # Width of the residual stream.
    heads: int  # Query heads of each layer.
    kv_heads: int  # Key and value heads of each layer.
    head_dim: int  # Width of a head.
    vocabulary: int  # Rows of the embedding.
    max_tokens: int | None  # Longest context; ``None`` if the configuration does not limit it.
    sliding_window: int | None  # Tokens that attention with a window looks back; ``None``: all.
    experts: int  # Experts of each mixture; 0 for a dense model.
    experts_per_token: int  # Of those, the number that process a token; 0 for a dense model.
    feed_forward: int  # Width of the feed-forward network between its matrices, or of one expert's.
    gated: bool  # Whether the feed-forward network has a third matrix, whose result is a factor.
    tied_embeddings: bool  # Whether the embedding is also the matrix that computes the scores.
    dtype: str  # Data type of the published weights, for example ``bfloat16``; empty if not stated.

    @property
    def cache_values_per_token(self) -> int:
        """Values that the cache keeps of each token: a key and a value per layer and head."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def require_length(self, tokens: int, name: str) -> None:
        """Raise a UserError if the model does not accept a context of this length, in tokens."""
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise UserError(f"{name} accepts {self.max_tokens:,} tokens, not {tokens:,}")

    @classmethod
    def from_configuration(cls, values: Mapping[str, Any]) -> Self:
        """Read the sizes from a configuration of transformers (a config.json)."""
        heads = _integer(values, "num_attention_heads")
        hidden_size = _integer(values, "hidden_size")
        experts = _value(values, "num_experts") or 0
        kind = str(_value(values, "model_type"))
        windowed = values.get("use_sliding_window", True)  # Qwen's states a window and no use of it
        return cls(
            kind=kind,
            layers=_integer(values, "num_hidden_layers"),
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=_kv_heads(values, heads),
            head_dim=_value(values, "head_dim") or hidden_size // heads,
            vocabulary=_integer(values, "vocab_size"),
            max_tokens=_value(values, "max_position_embeddings"),
            sliding_window=_value(values, "sliding_window") if windowed else None,
            experts=experts,
            experts_per_token=(_value(values, "num_experts_per_tok") or 0) if experts else 0,
            feed_forward=(_value(values, "moe_intermediate_size") if experts else None)
            or _value(values, "intermediate_size")
            or 4 * hidden_size,
            gated=kind not in _TWO_MATRICES,
            tied_embeddings=bool(values.get("tie_word_embeddings", True)),
            dtype=str(values.get("dtype") or values.get("torch_dtype") or "").rpartition(".")[2],
        )


def _kv_heads(values: Mapping[str, Any], heads: int) -> int:
    if values.get("multi_query") and not values.get("new_decoder_architecture"):
        return 1  # Falcon's and StarCoder's first generation
    return _value(values, "num_key_value_heads") or heads


def _value(values: Mapping[str, Any], key: str) -> Any:
    names = (key, *_OTHER_KEYS.get(key, ()))
    return next((values[name] for name in names if values.get(name) is not None), None)


def _integer(values: Mapping[str, Any], key: str) -> int:
    value = _value(values, key)
    if not isinstance(value, int) or value < 1:
        raise UserError(
            "the sizes of the language model are unknown", why=f"its configuration has no {key}"
        )
    return value


def published_names() -> list[str]:
    """Return the names of the published language models, without ``lm:``.

    Example:
        >>> published_names()[:3]
        ['tiny', 'gpt2', 'gpt2-medium']
    """
    return list(_published())


def published_name(name: str) -> str:
    """Return the full name of a published language model. Case does not matter.

    Raises:
        UnknownModelError: There is no such model.

    Example:
        >>> published_name("SmolLM2-135M"), published_name("mistral-7b")
        ('smollm2-135m', 'mistral-7b-v0.3')
    """
    lower = name.lower()
    full = _SHORT_NAMES.get(lower, lower)
    if full not in _published():
        raise UnknownModelError(f"no model 'lm:{name}'", hint=nearest(lower, _published()))
    return full


def published_configuration(name: str) -> dict[str, Any]:
    """Return the configuration of a published language model, as in its config.json."""
    configuration: dict[str, Any] = _published()[published_name(name)]["configuration"]
    return dict(configuration)


@functools.cache
def _published() -> dict[str, Any]:
    text = resources.files("joulelab.models").joinpath("language_models.json").read_text("utf-8")
    published: dict[str, Any] = json.loads(text)
    return published
