"""Trace one step of training or inference without running it.

The step runs on meta tensors, which have shapes but no data: nothing is computed, and no weight
takes memory. Every operator that would start work on a device is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual abbreviation
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from joulelab.errors import UserError
from joulelab.models.characteristics import sample_batch, training_mode, weightless
from joulelab.models.registry import build_model, language_config
from joulelab.predict.operator_counting import count_attention, count_call, count_sgd, is_view
from joulelab.predict.steps import PHASES, Case, Operator, TracedStep
from joulelab.predict.token_steps import count_token_step

OnAttention = Callable[[Tensor, Tensor, Tensor, bool, str], None]
"""Takes query, key, value, whether the attention is causal, and the part of the step."""


def trace_cases(
    cases: Iterable[Case], *, classes: int = 10, served: bool = False
) -> list[TracedStep]:
    """Trace the steps of cases, in their order. Each model is built once.

    Steps of language models are counted instead, as those of an inference server if ``served``.
    """
    cases = list(cases)
    found = {case: _count_tokens(case, served) for case in cases if case.counts_tokens}
    traced = [case for case in cases if not case.counts_tokens]
    if served and traced:
        raise UserError(
            f"{traced[0].model} cannot be predicted for an inference server",
            hint="choose the profile of a device with --profile",
        )
    for name, channels in dict.fromkeys((case.model, case.input_shape[0]) for case in traced):
        with weightless():
            model = build_model(name, num_classes=classes, in_channels=channels)
        for case in traced:
            if (case.model, case.input_shape[0]) == (name, channels) and case not in found:
                found[case] = trace_step(
                    model, case.phase, case.batch_size, case.input_shape, name=name
                )
    return [found[case] for case in cases]


def trace_step(
    model: nn.Module,
    phase: str,
    batch_size: int,
    input_shape: Sequence[int],
    *,
    name: str | None = None,
) -> TracedStep:
    """Trace the operators of one step: forward, and for training also backward and SGD.

    The loss is the cross-entropy, or the mean square if the output is not one score per class.
    The optimiser is SGD with momentum; gradients are set to none. The model is not modified, and
    may have been built under :func:`joulelab.models.characteristics.weightless`. A sample of a
    model that takes token ids has the shape ``(tokens,)``.

    Example:
        >>> step = trace_step(nn.Linear(8, 4), "infer", 16, (8,))
        >>> step.flops, step.bytes, step.launches
        (1024.0, 912.0, 1)
    """
    if phase not in PHASES:
        raise UserError(f"no phase {phase!r}", hint=f"choose from {', '.join(PHASES)}")
    shape = "x".join(map(str, (batch_size, *input_shape)))
    if batch_size < 1 or any(size < 1 for size in input_shape):
        raise UserError(f"cannot trace a step of {shape}", why="it is empty")
    name = type(model).__name__ if name is None else name
    try:
        with training_mode(model, phase == "train"):
            return _trace(model, phase, batch_size, tuple(input_shape))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{name} does not accept {shape} for {phase}", why=reason) from error


def _count_tokens(case: Case, served: bool) -> TracedStep:
    config = language_config(case.model)
    if config is None:
        raise UserError(
            f"{case.model} has no phase {case.phase!r}",
            why="it is not a model that generates text",
            hint="choose train or infer",
        )
    return count_token_step(config, case, served=served)


def _trace(model: nn.Module, phase: str, batch_size: int, shape: tuple[int, ...]) -> TracedStep:
    parameters = {
        key: nn.Parameter(torch.empty_like(one, device="meta"), one.requires_grad)
        for key, one in model.named_parameters()
    }
    buffers = {key: torch.empty_like(one, device="meta") for key, one in model.named_buffers()}
    counter = _OperatorCounter()
    with torch.device("meta"):
        batch = sample_batch(model, batch_size, shape)
        with counter, _FusedKernels(counter.add_attention):
            if phase == "infer":
                with torch.no_grad():
                    functional_call(model, parameters | buffers, (batch,))
            else:
                loss = _total_loss(functional_call(model, parameters | buffers, (batch,)))
                counter.part = "backward"
                loss.backward()  # type: ignore[no-untyped-call]
    trained = [one for one in parameters.values() if one.grad is not None]
    counter.operators.update(count_sgd(trained))
    return TracedStep(counter.operators, parameter_tensors=len(trained))


def _total_loss(output: Any) -> Tensor:
    """Return the sum over all outputs, which include auxiliary classifiers."""
    if hasattr(output, "to_tuple"):  # models of transformers return a data class
        output = output["logits"] if "logits" in output else next(iter(output.to_tuple()))
    trained = [one for one in tree_leaves(output) if isinstance(one, Tensor) and one.requires_grad]
    if not trained:
        raise UserError("the model cannot be trained", why="no output depends on a parameter")
    first, *others = map(_loss, trained)
    return sum(others, first)


def _loss(output: Tensor) -> Tensor:
    if output.ndim not in (2, 3):
        return output.square().mean()
    scores = output.flatten(0, -2)
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


class _OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operator that would start work on a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[Operator] = Counter()
        self.part = "forward"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _SHAPES.get(func, func)(*args, **kwargs)
        if not is_view(func):
            self.operators.update(count_call(func, args, kwargs, out, self.part))
        return out

    def add_attention(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, part: str
    ) -> None:
        self.operators[count_attention(query, key, value, part, causal=causal)] += 1


def _batch_norm(image: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = image.new_empty(
        image.shape[1], dtype=torch.promote_types(image.dtype, torch.float32)
    )
    return torch.empty_like(image), statistics, torch.empty_like(statistics)


def _batch_norm_backward(_: Tensor, image: Tensor, *others: Any) -> tuple[Tensor | None, ...]:
    weights = [image.new_empty(image.shape[1]) if wanted else None for wanted in others[-1][1:]]
    return torch.empty_like(image) if others[-1][0] else None, *weights


_SHAPES = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
    torch.ops.aten.relu.default: torch.empty_like,
    torch.ops.aten.threshold_backward.default: lambda gradient, *_: torch.empty_like(gradient),
}
"""Frequent operators whose shapes PyTorch derives so slowly that it takes most of the time."""


class _FusedKernels(TorchFunctionMode):
    """Makes attention and dropout single operators, as the fused kernels of GPUs do.

    On meta tensors PyTorch would decompose them. Attention is also replaced in
    ``torch.nn.functional``, because a mode does not see calls from PyTorch's own functions.
    """

    def __init__(self, on_attention: OnAttention) -> None:
        super().__init__()
        self._on_attention = on_attention
        self._original = F.scaled_dot_product_attention

    def __enter__(self) -> _FusedKernels:
        self._fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        F.scaled_dot_product_attention = self._attention  # type: ignore[assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        F.scaled_dot_product_attention = self._original
        torch.backends.mha.set_fastpath_enabled(self._fast_path)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
        found: Tensor = _Attention.apply(query, key, value, is_causal, self._on_attention)
        return found


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, training)[0] if training and p > 0 else input


class _Attention(torch.autograd.Function):
    """Gives tensors of the shapes of attention's results, which do not count as operators."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, report: OnAttention
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.causal, ctx.report = causal, report
        report(query, key, value, causal, "forward")
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        ctx.report(query, key, value, ctx.causal, "backward")
        return *(torch.empty_like(one) for one in (query, key, value)), None, None
