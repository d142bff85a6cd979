"""Attention seen as one operator, as the fused kernels of GPUs are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor
from torch.overrides import TorchFunctionMode

Noted = Callable[[Tensor, Tensor, Tensor, bool, str], None]
"""Told of query, key, value, whether causal, and the part of the step."""


class FusedKernels(TorchFunctionMode):
    """Within, attention and dropout are single operators, as they are on a GPU.

    On meta tensors PyTorch would take them apart. Attention is replaced in
    ``torch.nn.functional`` too: what PyTorch's own functions call is not seen by a mode.

    Args:
        note: Told of each attention, forward and backward. The tensors that are made for its
            results are not to be counted.
    """

    def __init__(self, note: Noted) -> None:
        super().__init__()
        self._note = note
        self._original = F.scaled_dot_product_attention

    def __enter__(self) -> FusedKernels:
        self._fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        F.scaled_dot_product_attention = self._attention  # type: ignore[assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        F.scaled_dot_product_attention = self._original
        torch.backends.mha.set_fastpath_enabled(self._fast_path)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is self._original:
            return self._attention(*args, **kwargs)
        if func is F.dropout or func is torch.dropout:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **_: Any,
    ) -> Tensor:
        found: Tensor = _Attention.apply(query, key, value, is_causal, self._note)
        return found


def _dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    return torch.native_dropout(input, p, training)[0] if training and p > 0 else input


class _Attention(torch.autograd.Function):
    """Shapes of attention's results."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, note: Noted
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.causal, ctx.note = causal, note
        note(query, key, value, causal, "forward")
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        ctx.note(query, key, value, ctx.causal, "backward")
        return *(torch.empty_like(one) for one in (query, key, value)), None, None
