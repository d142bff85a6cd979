"""Forward passes of a causal language model of transformers, with or without a cache.

The names of arguments differ between versions of transformers (4.48 to 5): what the model's
``forward`` accepts decides.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch

from joulelab.errors import UserError
from joulelab.workloads.batch_loop import Model

_LAST_LOGITS = ("logits_to_keep", "num_logits_to_keep")
_CACHE = ("cache", "past_key_values")


class Decoder:
    """A causal language model on a device.

    Args:
        model: The model; its configuration states the vocabulary and the longest sequence.
        runner: The model, or what :func:`torch.compile` made of it.
        device: Its device.
        dtype: Type of its weights, and of a cache.

    Raises:
        UserError: The model states no vocabulary: it is not a language model.
    """

    def __init__(
        self, model: torch.nn.Module, runner: Model, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.runner = runner
        self._config: Any = getattr(model, "config", None)
        self._device, self._dtype = device, dtype
        accepted = inspect.signature(model.forward).parameters
        self._last_logits = next((name for name in _LAST_LOGITS if name in accepted), None)
        self._cache_name = next((name for name in _CACHE if name in accepted), "")
        self._takes_positions = "cache_position" in accepted
        # Before transformers 5, some architectures knew only caches that are tuples.
        self._takes_cache = getattr(model, "_supports_cache_class", True)
        self._name = type(model).__name__
        vocabulary = getattr(self._config, "vocab_size", None)
        if vocabulary is None:
            raise UserError(
                f"{self._name} is no language model",
                why="it has no configuration with a vocab_size",
                hint="name a causal language model of transformers, for example lm:smollm2-135m",
            )
        self.vocabulary = int(vocabulary)

    def require_length(self, tokens: int) -> None:
        """Raise a UserError if the model does not accept a sequence of this length, in tokens."""
        most = getattr(self._config, "max_position_embeddings", None)
        if most is not None and tokens > most:
            raise UserError(
                f"a sequence of {tokens} tokens",
                why=f"the model accepts {most}",
                hint="use fewer prompt_tokens or output_tokens",
            )

    def new_cache(self, kind: str, batch_size: int, tokens: int) -> Any:
        """Make an empty cache, ``"dynamic"`` or ``"static"``; nothing for ``"none"``."""
        if kind == "none":
            return None
        transformers = importlib.import_module("transformers")
        if not self._takes_cache:
            raise UserError(
                f"{self._name} accepts no {kind} cache",
                why=f"transformers {transformers.__version__} has it with older caches only",
                hint="run pip install --upgrade transformers, or choose cache none",
            )
        if kind == "dynamic":
            return _call(transformers.DynamicCache, config=self._config)
        return _call(
            transformers.StaticCache,
            config=self._config,
            batch_size=batch_size,
            max_batch_size=batch_size,
            max_cache_len=tokens,
            device=self._device,
            dtype=self._dtype,
        )

    def next_tokens(self, tokens: torch.Tensor, cache: Any, position: int) -> torch.Tensor:
        """Run tokens (B, T) from a position on, and return the most likely next ones (B, 1).

        Without a cache, the tokens are the whole sequence.
        """
        options: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            options[self._cache_name] = cache
            if self._takes_positions:
                stop = position + tokens.shape[1]
                options["cache_position"] = torch.arange(position, stop, device=tokens.device)
        if self._last_logits:
            options[self._last_logits] = 1
        logits: torch.Tensor = self.runner(input_ids=tokens, **options).logits
        return logits[:, -1:].argmax(dim=-1)

    def shorten(self, cache: Any, tokens: int) -> None:
        """Remove the last tokens from a cache, so that it is used again.

        A model that takes positions overwrites what a static cache has there.
        """
        if cache is None or (self._takes_positions and hasattr(cache, "max_cache_len")):
            return
        for layer in getattr(cache, "layers", [cache]):
            if hasattr(layer, "crop"):
                layer.crop(-tokens)
                continue
            # Static layers of transformers before 5.2x count their tokens, and have no crop.
            layer.cumulative_length -= tokens
            if hasattr(layer, "cumulative_length_int"):
                layer.cumulative_length_int -= tokens


def _call(factory: Any, **options: Any) -> Any:
    accepted = inspect.signature(factory).parameters
    return factory(**{name: value for name, value in options.items() if name in accepted})
