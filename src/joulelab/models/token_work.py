"""The work that a language model does for a token: prefill of a prompt, and decode."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from joulelab.errors import UserError
from joulelab.models.characteristics import (
    countable_experts,
    on_fake_tensors,
    on_meta,
    product_counter,
    training_mode,
)
from joulelab.models.factories import describe_error
from joulelab.models.language_models import LanguageConfig


@dataclass(frozen=True, slots=True)
class TokenWork:
    """Work of one sequence, and the memory of its tokens.

    MACs are counted as by :func:`joulelab.models.characteristics.characterize`, which counts masked
    entries of attention: a prompt's attention computes half of them if its kernel skips the rest.
    """

    prompt_tokens: int  # Tokens of the prompt.
    active_parameters: int  # Parameters without the experts that a token is not routed to.
    prefill_macs: int  # Of the whole prompt with an empty cache; scores of its last token only.
    prefill_macs_per_token: float  # ``prefill_macs / prompt_tokens``.
    decode_macs: int  # Of one more token, with the prompt in the cache.
    cache_bytes_per_token: float  # Keys and values in the cache after the prompt, per token.


def next_token_scores(
    model: nn.Module, tokens: Tensor, cache: Any | None = None
) -> tuple[Tensor, Any]:
    """Run a language model as a server does: keep the cache, and score only the next token.

    Args:
        model: A language model of transformers.
        tokens: Token ids, shape (N, tokens): a prompt, or the one token that was decoded last.
        cache: What the call for the tokens before returned; ``None`` for a prompt.

    Returns:
        Scores of the token after the last, shape (N, 1, vocabulary), and the cache.
    """
    whole: Any = model
    body, head = whole.base_model, whole.get_output_embeddings()
    # transformers renamed the argument and the output in version 5.
    new_name = "cache" in inspect.signature(body.forward).parameters
    name = "cache" if new_name else "past_key_values"
    output = body(tokens, use_cache=True, **{name: cache})
    return head(output.last_hidden_state[:, -1:]), output[name]


def active_parameters(model: nn.Module) -> int:
    """Count the parameters that process a token: of a mixture, those of the chosen experts."""
    sizes = _sizes(model)
    count = inactive = 0
    for name, parameter in model.named_parameters():
        count += parameter.numel()
        if sizes.experts and ".experts." in name:
            unused = sizes.experts - sizes.experts_per_token
            inactive += parameter.numel() * unused // sizes.experts
    return count - inactive


def count_token_work(model: nn.Module, prompt_tokens: int, *, name: str) -> TokenWork:
    """Count the work of prefill and decode on tensors without data.

    Args:
        model: A language model of transformers; it is not modified. It may be weightless.
        prompt_tokens: Length of the prompt, >= 1.
        name: Name of the model in errors.

    Raises:
        UserError: The model accepts no prompt of this length, or its passes cannot be counted.
    """
    _sizes(model).require_length(prompt_tokens, name)
    failure: Exception | None = None
    with training_mode(model, False), torch.no_grad(), countable_experts(model):
        for without_data in (on_meta, on_fake_tensors):
            try:
                prefill_macs, decode_macs, cache_bytes = _count(model, prompt_tokens, without_data)
                break
            except Exception as error:  # noqa: BLE001 - raised below if no pass succeeds
                failure = error
        else:
            assert failure is not None
            old = not hasattr(model, "get_experts_implementation")
            raise UserError(
                f"the work per token of {name} cannot be counted",
                why=describe_error(failure),
                hint="run pip install --upgrade transformers" if old else "",
            ) from failure
    return TokenWork(
        prompt_tokens=prompt_tokens,
        active_parameters=active_parameters(model),
        prefill_macs=prefill_macs,
        prefill_macs_per_token=prefill_macs / prompt_tokens,
        decode_macs=decode_macs,
        cache_bytes_per_token=cache_bytes / prompt_tokens,
    )


def _count(
    model: nn.Module,
    prompt_tokens: int,
    without_data: Callable[[], AbstractContextManager[Callable[[Tensor], Tensor]]],
) -> tuple[int, int, int]:
    """Count the MACs of prefill and of decode, and the bytes of the cache between them."""
    step = _Step(model)
    with without_data() as copy:
        tensors = {key: copy(one) for key, one in _named_tensors(step)}
        prompt = torch.zeros((1, prompt_tokens), dtype=torch.long)
        with product_counter() as prefill:
            _, cache = functional_call(step, tensors, (prompt,))
        cache_bytes = sum(one.nbytes for one in _cached_tensors(cache))
        with product_counter() as decode:
            functional_call(step, tensors, (prompt[:, -1:], cache))
    return prefill.get_total_flops() // 2, decode.get_total_flops() // 2, cache_bytes


def _sizes(model: nn.Module) -> LanguageConfig:
    config: Any = model.config
    return LanguageConfig.from_configuration(config.get_text_config().to_dict())


class _Step(nn.Module):
    """Give :func:`next_token_scores` the form that tensors can be replaced in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, cache: Any | None = None) -> tuple[Tensor, Any]:
        """Return scores and cache."""
        return next_token_scores(self.model, tokens, cache)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _cached_tensors(cache: Any) -> Iterator[Tensor]:
    """Yield the keys and values of a cache of transformers 5 or 4.

    Layers of a recurrent kind have neither: their state does not grow with the tokens.
    """
    layers = getattr(cache, "layers", None)
    if isinstance(cache, tuple):  # GPT-2 in early versions of transformers 4
        yield from itertools.chain.from_iterable(cache)
        return
    if layers is None:
        yield from (*cache.key_cache, *cache.value_cache)
        return
    for layer in layers:
        if getattr(layer, "keys", None) is not None:
            yield from (layer.keys, layer.values)
